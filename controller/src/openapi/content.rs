//! Content, the manifests that name it for a site, and templates of answer files.

use axum::http::Method;
use pureboot_protocol::SignedManifest;

use super::operation::Operation;
use crate::api::{content, manifest, meta, secrets, templates};
use crate::store::{ContentEntry, MetaView, SecretView, Template, TemplateHead};

const BYTES: &str = "application/octet-stream";

pub(super) fn operations() -> Vec<Operation> {
    [of_content(), of_templates()].into_iter().flatten().collect()
}

fn of_content() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    let put = |path, summary| Operation::new(Method::PUT, path, summary);
    let delete = |path, summary| Operation::new(Method::DELETE, path, summary);
    let file = |operation: Operation| operation.bytes(BYTES).or(206).or_empty(304).conditional();
    vec![
        get("/api/v1/content", "List content").query::<content::Filter>().page::<ContentEntry>(),
        file(get("/api/v1/content/{category}/{*path}", "Fetch a file, or a part of it")),
        put("/api/v1/content/{category}/{*path}", "Store a file, streamed and hashed on its way")
            .takes_bytes()
            .one::<ContentEntry>()
            .or(201)
            .refuses(411)
            .refuses(412)
            .refuses(422)
            .refuses(507),
        delete("/api/v1/content/{category}/{*path}", "Delete a file that no workflow loads")
            .one::<ContentEntry>()
            .refuses(409)
            .refuses(412),
        get("/api/v1/content/manifest", "What a site is to hold, signed")
            .query::<manifest::Filter>()
            .one::<manifest::Readable>()
            .or_empty(304)
            .refuses(404),
        get("/api/v1/sites/{id}/assigned-content", "What a site is to hold beside what it needs")
            .one::<Vec<manifest::Assigned>>(),
        put("/api/v1/sites/{id}/assigned-content", "Set what a site is to hold")
            .body::<Vec<manifest::Assigned>>()
            .one::<Vec<manifest::Assigned>>(),
        get("/api/v1/agents/manifest", "What the agent's site is to hold, signed")
            .one::<SignedManifest>()
            .or_empty(304)
            .refuses(404),
        file(get("/api/v1/agents/content/{category}/{*path}", "Fetch a file by its name")),
        file(get("/api/v1/agents/objects/{sha256}", "Fetch a file by its hash")),
        get("/api/v1/agents/objects/{sha256}/chunks", "The chunks of a file, each its length (4 bytes, big-endian) and its SHA-256 (32 bytes)")
            .bytes(BYTES),
    ]
}

fn of_templates() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    let post = |path, summary| Operation::new(Method::POST, path, summary);
    let put = |path, summary| Operation::new(Method::PUT, path, summary);
    let patch = |path, summary| Operation::new(Method::PATCH, path, summary);
    let delete = |path, summary| Operation::new(Method::DELETE, path, summary);
    let read_meta = |path| get(path, "Values for templates").one::<MetaView>();
    let set_meta = |path| {
        let operation = patch(path, "Set values for templates; null takes one away");
        operation.body::<meta::Patch>().one::<MetaView>().versioned()
    };
    vec![
        get("/api/v1/templates", "List templates")
            .query::<templates::Filter>()
            .page::<TemplateHead>(),
        post("/api/v1/templates", "Make a template; it is compiled first")
            .body::<templates::TemplateFields>()
            .created::<Template>()
            .refuses(409),
        post("/api/v1/templates/check", "Compile a template without keeping it")
            .body::<templates::Draft>()
            .one::<templates::Checked>(),
        get("/api/v1/templates/{id}", "Read a template").one::<Template>(),
        patch("/api/v1/templates/{id}", "Make the next version of a template")
            .body::<templates::TemplateFields>()
            .one::<Template>()
            .versioned()
            .refuses(409),
        delete("/api/v1/templates/{id}", "Delete a template that nothing uses")
            .one::<Template>()
            .versioned()
            .refuses(409),
        post("/api/v1/templates/{id}/preview", "Render a template for a node, secrets masked")
            .body::<templates::PreviewOrder>()
            .one::<templates::Preview>(),
        get("/api/v1/templates/{id}/versions", "List versions, the newest first")
            .page::<TemplateHead>(),
        get("/api/v1/templates/{id}/versions/{version}", "Read a version").one::<Template>(),
        post(
            "/api/v1/templates/{id}/versions/{version}/restore",
            "Make an older version the next one",
        )
        .one::<Template>()
        .versioned()
        .refuses(409)
        .refuses(422),
        read_meta("/api/v1/nodes/{id}/meta"),
        set_meta("/api/v1/nodes/{id}/meta"),
        read_meta("/api/v1/groups/{id}/meta"),
        set_meta("/api/v1/groups/{id}/meta"),
        read_meta("/api/v1/sites/{id}/meta"),
        set_meta("/api/v1/sites/{id}/meta"),
        get("/api/v1/secrets", "List the names of secrets")
            .query::<secrets::Filter>()
            .page::<SecretView>(),
        put("/api/v1/secrets/{name}", "Seal a secret; it is never told again")
            .body::<secrets::NewSecret>()
            .one::<SecretView>()
            .or(201),
        delete("/api/v1/secrets/{name}", "Forget a secret")
            .query::<secrets::Filter>()
            .one::<SecretView>(),
    ]
}
