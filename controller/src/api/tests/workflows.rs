//! The versions of workflows.

use serde_json::{Value, json};

use super::Centre;

#[tokio::test]
async fn each_change_is_a_version_and_an_older_one_comes_back_as_the_next() {
    let centre = Centre::start().await;
    let first = json!({"name": "debian", "method": "kernel", "kernel": "images/debian/linux", "timeout_minutes": 30});
    let workflow = centre.post("/api/v1/workflows", first).await.data().clone();
    let path = format!("/api/v1/workflows/{}", workflow["id"].as_str().expect("an id"));
    centre.patch(&path, json!({"name": "bookworm", "command_line": "quiet"})).await;
    centre.patch(&path, json!({"timeout_minutes": 90})).await;
    let versions = async || -> Vec<Value> {
        let versions = centre.get(&format!("{path}/versions")).await;
        let pair = |kept: &Value| json!([kept["version"], kept["name"], kept["timeout_minutes"]]);
        versions.data().as_array().expect("a list").iter().map(pair).collect()
    };
    let before = [json!([3, "bookworm", 90]), json!([2, "bookworm", 30]), json!([1, "debian", 30])];
    assert_eq!(versions().await, before);
    assert_eq!(*centre.get(&format!("{path}/versions/1")).await.data(), workflow);
    let restored = centre.post(&format!("{path}/versions/1/restore"), json!({})).await;
    let data = restored.data();
    assert_eq!(
        (&data["version"], &data["name"], &data["command_line"], &data["timeout_minutes"]),
        (&json!(4), &json!("bookworm"), &json!(""), &json!(30)),
        "the name stays, as nodes and people know it"
    );
    assert_eq!(versions().await.len(), 4);
    for missing in ["99", "x", "0"] {
        let answer = centre.get(&format!("{path}/versions/{missing}")).await;
        assert_eq!(answer.problem(), (404, "not_found".to_owned()));
    }
    centre.delete(&path).await;
    assert_eq!(centre.get(&format!("{path}/versions")).await.status, 404);
}

#[tokio::test]
async fn a_version_whose_content_is_gone_comes_back_only_where_that_is_wanted() {
    let centre = Centre::start().await;
    centre.put_content("images/old/linux", "a kernel").await;
    let first = json!({"name": "a", "method": "kernel", "kernel": "images/old/linux"});
    let workflow = centre.post("/api/v1/workflows", first).await.data().clone();
    let path = format!("/api/v1/workflows/{}", workflow["id"].as_str().expect("an id"));
    centre.patch(&path, json!({"kernel": "images/debian/linux"})).await;
    assert_eq!(centre.delete("/api/v1/content/images/old/linux").await.status, 200);
    let restore = format!("{path}/versions/1/restore");
    let refused = centre.post(&restore, json!({})).await;
    assert_eq!(refused.problem(), (422, "validation_failed".to_owned()));
    let taken = centre.post(&format!("{restore}?allow_missing=true"), json!({})).await;
    assert_eq!(taken.data()["kernel"], "images/old/linux");
}

#[tokio::test]
async fn i7_the_newest_hundred_versions_are_kept() {
    let centre = Centre::start().await;
    let first = json!({"name": "a", "method": "kernel", "kernel": "images/debian/linux"});
    let workflow = centre.post("/api/v1/workflows", first).await.data().clone();
    let path = format!("/api/v1/workflows/{}", workflow["id"].as_str().expect("an id"));
    for minutes in 1..=101 {
        centre.patch(&path, json!({"timeout_minutes": minutes})).await;
    }
    let versions = centre.get(&format!("{path}/versions?limit=500")).await;
    assert_eq!(versions.body["total"], 100);
    assert_eq!(versions.data()[99]["version"], 3);
}
