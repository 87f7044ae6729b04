//! People with an account: what one is made of, and how it ends.

use serde_json::json;

use super::{Centre, PASSWORD, id, request};

#[tokio::test]
async fn an_account_is_made_read_changed_and_removed_and_never_shows_its_password() {
    let centre = Centre::start().await;
    let body = json!({"name": "Ada Łovelace", "password": PASSWORD, "role": "operator"});
    let made = centre.post("/api/v1/users", body).await;
    assert_eq!(made.status, 201);
    assert_eq!(
        (&made.data()["role"], &made.data()["disabled"]),
        (&json!("operator"), &json!(false))
    );
    let path = format!("/api/v1/users/{}", made.data()["id"].as_str().expect("an id"));
    assert_eq!(centre.get(&path).await.data(), made.data());
    let list = centre.get("/api/v1/users").await;
    assert_eq!((&list.data()[0], &list.body["total"]), (made.data(), &json!(1)));
    for answer in [&made, &list] {
        assert!(!answer.body.to_string().contains("argon2"), "{answer:?}");
    }
    let changed = centre.patch(&path, json!({"role": "viewer"})).await;
    assert_eq!(changed.data()["role"], "viewer");
    assert_eq!(centre.delete(&path).await.status, 200);
    assert_eq!(centre.get(&path).await.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_name_is_unique_whatever_its_case_and_looks_like_nothing_else() {
    let centre = Centre::start().await;
    let make = async |name: &str| {
        let body = json!({"name": name, "password": PASSWORD});
        centre.post("/api/v1/users", body).await.status.as_u16()
    };
    for (name, status) in [
        ("Zoë", 201),
        ("ZOË", 409),
        ("zoë", 409),
        ("Zoe\u{308}", 422),
        ("Зоя", 201),
        ("李小龙", 201),
        ("أمينة", 201),
        ("ada\u{202e}nimda", 422),
        ("ada\u{200b}", 422),
        ("ada\n", 422),
        (" ada", 422),
        ("a/b", 422),
        ("", 422),
        (&"a".repeat(65), 422),
    ] {
        assert_eq!(make(name).await, status, "{name:?}");
    }
    centre.sign_in("зоЯ").await;
}

#[tokio::test]
async fn a_password_that_will_not_do_is_refused_without_being_repeated() {
    let centre = Centre::start().await;
    for password in ["short", &"a".repeat(257), &"a".repeat(64 << 10), "the same name"] {
        let body = json!({"name": "The Same Name", "password": password});
        let answer = centre.post("/api/v1/users", body).await;
        assert_eq!(answer.problem(), (422, "validation_failed".to_owned()));
        assert_eq!(answer.body["errors"][0]["field"], "password");
        assert!(!answer.detail().contains(password) || password == "the same name");
    }
}

#[tokio::test]
async fn the_last_admin_can_neither_be_removed_nor_disabled_nor_demoted() {
    let centre = Centre::start().await;
    let ada = centre.make_user("ada", "admin").await;
    let path = format!("/api/v1/users/{ada}");
    let all = async || {
        [
            centre.delete(&path).await,
            centre.patch(&path, json!({"disabled": true})).await,
            centre.patch(&path, json!({"role": "operator"})).await,
        ]
    };
    for answer in all().await {
        assert_eq!(answer.problem(), (409, "last_admin".to_owned()));
    }
    let grace = centre.make_user("grace", "admin").await;
    let other = format!("/api/v1/users/{grace}");
    centre.patch(&other, json!({"disabled": true})).await.data();
    for answer in all().await {
        assert_eq!(
            answer.problem(),
            (409, "last_admin".to_owned()),
            "who is disabled does not count"
        );
    }
    centre.patch(&other, json!({"disabled": false})).await.data();
    assert_eq!(centre.delete(&path).await.status, 200);
}

#[tokio::test]
async fn disabling_ends_sessions_and_tokens_at_once_and_enabling_does_not_bring_them_back() {
    let centre = Centre::start().await;
    centre.make_user("ada", "admin").await;
    let grace = centre.make_user("grace", "operator").await;
    let cookie = centre.sign_in("grace").await;
    let answer = centre.page(&cookie, "POST", "/api/v1/tokens", Some(json!({"name": "t"}))).await;
    let token = serde_json::from_value(answer.data()["secret"].clone()).expect("a secret");
    let session = async || centre.page(&cookie, "GET", "/api/v1/nodes", None).await.status.as_u16();
    let bearer = async || centre.call(&token, "GET", "/api/v1/nodes", None).await.status.as_u16();
    assert_eq!((session().await, bearer().await), (200, 200));
    let path = format!("/api/v1/users/{grace}");
    centre.patch(&path, json!({"disabled": true})).await.data();
    assert_eq!((session().await, bearer().await), (401, 401));
    let body = json!({"username": "grace", "password": PASSWORD});
    let login = || request(None, "POST", "/api/v1/session", Some(body.clone()));
    assert_eq!(centre.send(login()).await.problem(), (401, "wrong_password".to_owned()));
    centre.patch(&path, json!({"disabled": false})).await.data();
    assert_eq!((session().await, bearer().await), (401, 401));
    assert_eq!(centre.send(login()).await.status, 200);
}

#[tokio::test]
async fn another_password_ends_all_sessions_and_the_old_one_is_good_no_more() {
    let centre = Centre::start().await;
    let ada: pureboot_protocol::UserId = centre.make_user("ada", "viewer").await;
    let cookie = centre.sign_in("ada").await;
    let change = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        centre.page(&cookie, "POST", "/api/v1/session/password", Some(body)).await
    };
    let wrong = change("not the password", "battery staple").await;
    assert_eq!(wrong.problem(), (401, "wrong_password".to_owned()));
    assert_eq!(change(PASSWORD, "short").await.body["errors"][0]["field"], "new_password");
    assert_eq!(change(PASSWORD, "battery staple").await.status, 200);
    assert_eq!(centre.page(&cookie, "GET", "/api/v1/session", None).await.status, 401);
    let login = async |password: &str| {
        let body = json!({"username": "ada", "password": password});
        centre.send(request(None, "POST", "/api/v1/session", Some(body))).await
    };
    assert_eq!(login(PASSWORD).await.status, 401);
    assert_eq!(login("battery staple").await.status, 200);
    let path = format!("/api/v1/users/{ada}/password");
    let reset = centre.post(&path, json!({"password": "third password"})).await;
    assert_eq!(id::<pureboot_protocol::UserId>(reset.data()), ada);
    assert_eq!(login("third password").await.status, 200);
    let without = json!({"current_password": "x", "new_password": "battery staple"});
    let without = centre.post("/api/v1/session/password", without).await;
    assert_eq!(without.problem(), (400, "no_account".to_owned()));
}
