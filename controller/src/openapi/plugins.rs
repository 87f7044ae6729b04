//! Site policies.

use axum::http::Method;

use super::operation::Operation;
use crate::api::plugins;
use crate::store::{AssignmentFields, KeptVersion, Plugin, PluginAssignment, SitePolicy};

pub(super) fn operations() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    let post = |path, summary| Operation::new(Method::POST, path, summary);
    let put = |path, summary| Operation::new(Method::PUT, path, summary);
    let delete = |path, summary| Operation::new(Method::DELETE, path, summary);
    vec![
        get("/api/v1/plugins", "List site policies").page::<Plugin>(),
        post("/api/v1/plugins", "Upload a version: a bundle, or WebAssembly alone; it is compiled, and asked its fixtures")
            .query::<plugins::Wish>()
            .takes_bytes()
            .one::<KeptVersion>()
            .or(201)
            .refuses(409)
            .refuses(411)
            .refuses(422)
            .refuses(501)
            .refuses(507),
        get("/api/v1/plugins/{name}", "Read a policy and its current version").one::<Plugin>(),
        delete("/api/v1/plugins/{name}", "Delete a policy that is assigned nowhere")
            .one::<Plugin>()
            .refuses(409),
        get("/api/v1/plugins/{name}/versions", "List versions, the latest upload first")
            .page_of_all::<KeptVersion>(),
        get("/api/v1/plugins/{name}/versions/{version}", "Read a version").one::<KeptVersion>(),
        delete("/api/v1/plugins/{name}/versions/{version}", "Delete a version that no site is given")
            .one::<KeptVersion>()
            .refuses(409),
        post("/api/v1/plugins/{name}/rollback", "Give sites the version before, or another one")
            .body::<plugins::Rollback>()
            .one::<Plugin>()
            .refuses(409),
        get("/api/v1/plugins/{name}/assignments", "Where a policy is used")
            .page::<PluginAssignment>(),
        put(
            "/api/v1/plugins/{name}/assignments/{place}",
            "Use a policy at a site and those below, or everywhere; what is absent stays as it is",
        )
        .body::<AssignmentFields>()
        .one::<PluginAssignment>()
        .or(201)
        .refuses(409),
        delete("/api/v1/plugins/{name}/assignments/{place}", "Use a policy there no more")
            .one::<PluginAssignment>(),
        get("/api/v1/plugins/{name}/sites", "How a policy fares at each site").page::<SitePolicy>(),
        get("/api/v1/sites/{id}/plugins", "The policies of a site, in the order in which they are asked")
            .one::<Vec<SitePolicy>>(),
    ]
}
