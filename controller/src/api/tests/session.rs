//! Sessions of the page: how they begin, what they open, how they end.

use serde_json::{Value, json};

use super::{Centre, PASSWORD, cookie_of, from, page_request, request};
use crate::cookie::Cookie;
use crate::router::router;

fn login(name: &str, password: &str) -> axum::http::Request<axum::body::Body> {
    let body = json!({"username": name, "password": password});
    request(None, "POST", "/api/v1/session", Some(body))
}

#[tokio::test]
async fn a_session_says_who_one_is_until_one_signs_out() {
    let centre = Centre::start().await;
    centre.make_user("ada", "operator").await;
    let answer = centre.send(login("ADA", PASSWORD)).await;
    assert_eq!(
        (&answer.data()["name"], &answer.data()["role"]),
        (&json!("ada"), &json!("operator"))
    );
    let set = answer.headers["set-cookie"].to_str().expect("text");
    for part in ["pureboot_session=", "; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age="] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure") && !set.contains("Domain"), "{set}");
    assert!(!answer.body.to_string().contains(&cookie_of(&answer)[17..]), "no script reads it");
    let cookie = cookie_of(&answer);
    let who = centre.page(&cookie, "GET", "/api/v1/session", None).await;
    assert_eq!((&who.data()["name"], &who.data()["via"]), (&json!("ada"), &json!("session")));
    let out = centre.page(&cookie, "DELETE", "/api/v1/session", None).await;
    assert_eq!(out.status, 200);
    assert!(out.headers["set-cookie"].to_str().expect("text").contains("Max-Age=0"));
    assert_eq!(centre.page(&cookie, "GET", "/api/v1/session", None).await.status, 401);
    let who = centre.get("/api/v1/session").await;
    assert_eq!((&who.data()["via"], &who.data()["user_id"]), (&json!("token"), &Value::Null));
    assert_eq!(centre.delete("/api/v1/session").await.problem(), (400, "no_session".to_owned()));
}

#[tokio::test]
async fn over_https_the_cookie_is_for_https_and_for_this_host_alone() {
    let centre = Centre::start().await;
    let app = centre.app.clone().with_cookie(Cookie::Secure);
    let centre = Centre { router: router(app), ..centre };
    centre.make_user("ada", "viewer").await;
    let answer = centre.send(login("ada", PASSWORD)).await;
    let set = answer.headers["set-cookie"].to_str().expect("text").to_owned();
    assert!(set.starts_with("__Host-pureboot_session=") && set.ends_with("; Secure"), "{set}");
    let cookie = cookie_of(&answer);
    assert_eq!(centre.page(&cookie, "GET", "/api/v1/session", None).await.status, 200);
    let plain = cookie.replace("__Host-", "");
    assert_eq!(centre.page(&plain, "GET", "/api/v1/session", None).await.status, 401);
}

#[tokio::test]
async fn a_wrong_name_and_a_wrong_password_get_the_same_answer() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    let mut bodies = Vec::new();
    for (name, password) in [
        ("ada", "wrong password"),
        ("nobody", PASSWORD),
        ("", ""),
        ("ada", ""),
        ("ada\0", PASSWORD),
        ("ada", &"a".repeat(64 << 10)),
        (&"a".repeat(64 << 10), PASSWORD),
        ("'; DROP TABLE users; --", PASSWORD),
    ] {
        let answer = centre.send(login(name, password)).await;
        assert_eq!(answer.problem(), (401, "wrong_password".to_owned()), "{answer:?}");
        assert!(!answer.headers.contains_key("set-cookie"));
        let mut body = answer.body;
        body["correlation_id"] = Value::Null;
        bodies.push(body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_session_that_somebody_has_planted_does_not_become_anybodys() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    centre.make_user("eve", "viewer").await;
    let planted = centre.sign_in("eve").await;
    let mut request = login("ada", PASSWORD);
    request.headers_mut().insert("cookie", planted.parse().expect("a value"));
    let own = cookie_of(&centre.send(request).await);
    assert_ne!(own, planted);
    assert_eq!(centre.page(&own, "GET", "/api/v1/session", None).await.data()["name"], "ada");
    assert_eq!(centre.page(&planted, "GET", "/api/v1/session", None).await.status, 401);
    let both = format!("{planted}; {own}");
    assert_eq!(centre.page(&both, "GET", "/api/v1/session", None).await.status, 401);
}

#[tokio::test]
async fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    let cookie = centre.sign_in("ada").await;
    let status =
        async || centre.page(&cookie, "GET", "/api/v1/session", None).await.status.as_u16();
    for _ in 0..21 {
        centre.pass_seconds(8 * 3_600 - 1);
        assert_eq!(status().await, 200, "who comes back in time stays");
    }
    centre.pass_seconds(21);
    assert_eq!(status().await, 401, "a week is over");
    let cookie = centre.sign_in("ada").await;
    centre.pass_seconds(8 * 3_600);
    let idle = centre.page(&cookie, "GET", "/api/v1/session", None).await;
    assert_eq!(idle.problem(), (401, "unauthenticated".to_owned()));
}

#[tokio::test]
async fn i7_a_person_has_a_bounded_number_of_sessions() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    let first = centre.sign_in("ada").await;
    let mut last = String::new();
    for _ in 0..16 {
        centre.pass_seconds(1);
        last = centre.sign_in("ada").await;
    }
    assert_eq!(centre.page(&first, "GET", "/api/v1/session", None).await.status, 401);
    assert_eq!(centre.page(&last, "GET", "/api/v1/session", None).await.status, 200);
}

#[tokio::test]
async fn another_page_can_make_a_browser_send_the_cookie_and_changes_nothing_by_it() {
    let centre = Centre::start().await;
    centre.make_user("ada", "admin").await;
    let cookie = centre.sign_in("ada").await;
    for (header, value, status) in [
        ("origin", Some("http://evil.example.org"), 403),
        ("origin", Some("http://boot.example.org"), 403),
        ("origin", Some("null"), 403),
        ("origin", None, 403),
        ("sec-fetch-site", Some("cross-site"), 403),
        ("sec-fetch-site", Some("same-site"), 403),
        ("sec-fetch-site", Some("none"), 403),
        ("sec-fetch-site", Some("same-origin"), 201),
        ("content-type", Some("text/plain"), 415),
        ("content-type", Some("application/x-www-form-urlencoded"), 415),
        ("content-type", None, 415),
        ("x-nothing", None, 201),
    ] {
        let body = json!({"name": format!("site {status} {header} {value:?}").replace('/', "-")});
        let mut request = page_request(&cookie, "POST", "/api/v1/sites", Some(body));
        match value {
            Some(value) => request.headers_mut().insert(header, value.parse().expect("a value")),
            None => request.headers_mut().remove(header),
        };
        let answer = centre.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{header} {value:?}: {answer:?}");
    }
    assert_eq!(centre.get("/api/v1/sites").await.body["total"], 2);
    let mut read = page_request(&cookie, "GET", "/api/v1/sites", None);
    read.headers_mut().insert("origin", "http://evil.example.org".parse().expect("a value"));
    assert_eq!(centre.send(read).await.status, 200, "reading is what the browser keeps to itself");
    let mut login = login("ada", PASSWORD);
    login.headers_mut().insert("sec-fetch-site", "cross-site".parse().expect("a value"));
    assert_eq!(centre.send(login).await.problem(), (403, "foreign_origin".to_owned()));
}

#[tokio::test]
async fn a9_guessing_closes_the_door_to_the_guesser_and_the_account_stays_open() {
    let centre = Centre::start().await;
    centre.make_user("ada", "viewer").await;
    for _ in 0..10 {
        assert_eq!(centre.send(login("ada", "wrong password")).await.status, 401);
    }
    let answer = centre.send(login("ada", PASSWORD)).await;
    assert_eq!(answer.problem(), (429, "too_many_requests".to_owned()));
    assert!(answer.headers.contains_key("retry-after"));
    let elsewhere = from(login("ada", PASSWORD), [198, 51, 100, 1]);
    assert_eq!(centre.send(elsewhere).await.status, 200);
}
