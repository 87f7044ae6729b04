//! Nodes and the workflows that they are installed with.

use axum::http::Method;
use pureboot_protocol::Node;

use super::operation::Operation;
use crate::api::{bulk, commands, migrations, nodes, workflows};
use crate::store::{
    Claim, Install, KeptBoot, KeptWorkflow, LoggedEvent, LoggedMove, NewNode, NodePatch,
};

pub(super) fn operations() -> Vec<Operation> {
    let get = |path, summary| Operation::new(Method::GET, path, summary);
    let post = |path, summary| Operation::new(Method::POST, path, summary);
    let patch = |path, summary| Operation::new(Method::PATCH, path, summary);
    let delete = |path, summary| Operation::new(Method::DELETE, path, summary);
    vec![
        get("/api/v1/nodes", "List nodes").query::<nodes::Filter>().page::<Node>(),
        post("/api/v1/nodes", "Make a node before it has booted")
            .body::<NewNode>()
            .created::<Node>()
            .refuses(409),
        get("/api/v1/nodes/stats", "Count nodes by state").one::<nodes::Stats>(),
        get(
            "/api/v1/nodes/stalled",
            "List nodes that install for longer than their workflow allows",
        )
        .page::<Install>(),
        get("/api/v1/nodes/{id}", "Read a node").one::<Node>(),
        patch("/api/v1/nodes/{id}", "Change a node; what is absent stays")
            .body::<NodePatch>()
            .one::<Node>()
            .versioned(),
        delete("/api/v1/nodes/{id}", "Retire a node").one::<Node>().versioned(),
        patch("/api/v1/nodes/{id}/state", "Order a node to another state")
            .body::<bulk::StateOrder>()
            .one::<Node>()
            .versioned(),
        post("/api/v1/nodes/{id}/command", "Order something of a node's own system")
            .body::<commands::NodeCommand>()
            .one::<Node>()
            .versioned()
            .refuses(409),
        delete("/api/v1/nodes/{id}/command", "Take back what the node has not acknowledged")
            .one::<Node>()
            .versioned()
            .refuses(409),
        post("/api/v1/nodes/{id}/tags", "Add a tag")
            .body::<bulk::Tag>()
            .one::<Node>()
            .versioned()
            .refuses(409),
        delete("/api/v1/nodes/{id}/tags/{tag}", "Remove a tag").one::<Node>().versioned(),
        get("/api/v1/nodes/{id}/history", "List the moves of a node's state, the latest first")
            .page::<LoggedMove>(),
        get("/api/v1/nodes/{id}/events", "List what was reported of a node, the latest first")
            .page::<LoggedEvent>(),
        get("/api/v1/nodes/{id}/boots", "List the boot sessions of a node, the latest first")
            .page::<KeptBoot>(),
        post("/api/v1/nodes/bulk/assign-group", "Put many nodes into a group")
            .body::<bulk::Bulk<bulk::AssignGroup>>()
            .one::<bulk::Outcome>(),
        post("/api/v1/nodes/bulk/assign-workflow", "Assign a workflow to many nodes")
            .body::<bulk::Bulk<bulk::AssignWorkflow>>()
            .one::<bulk::Outcome>(),
        post("/api/v1/nodes/bulk/add-tag", "Add a tag to many nodes")
            .body::<bulk::Bulk<bulk::Tag>>()
            .one::<bulk::Outcome>(),
        post("/api/v1/nodes/bulk/remove-tag", "Remove a tag from many nodes")
            .body::<bulk::Bulk<bulk::Tag>>()
            .one::<bulk::Outcome>(),
        post("/api/v1/nodes/bulk/change-state", "Order many nodes to another state")
            .body::<bulk::Bulk<bulk::StateOrder>>()
            .one::<bulk::Outcome>(),
        get(
            "/api/v1/migrations",
            "List nodes of one site that boot at another, the oldest claim first",
        )
        .query::<migrations::Filter>()
        .page::<Claim>(),
        get("/api/v1/migrations/{id}", "Read a claim").one::<Claim>(),
        post("/api/v1/migrations/{id}/approve", "Move the node of a claim to where it boots")
            .body::<migrations::Reason>()
            .one::<Claim>()
            .versioned()
            .refuses(409),
        post("/api/v1/migrations/{id}/reject", "Leave the node of a claim where it is")
            .body::<migrations::Reason>()
            .one::<Claim>()
            .refuses(409),
        get("/api/v1/workflows", "List workflows").page::<KeptWorkflow>(),
        post("/api/v1/workflows", "Make a workflow")
            .query::<workflows::Leniency>()
            .body::<workflows::WorkflowFields>()
            .created::<KeptWorkflow>()
            .refuses(409),
        get("/api/v1/workflows/{id}", "Read a workflow").one::<KeptWorkflow>(),
        patch("/api/v1/workflows/{id}", "Change a workflow; what is absent stays")
            .query::<workflows::Leniency>()
            .body::<workflows::WorkflowFields>()
            .one::<KeptWorkflow>()
            .versioned()
            .refuses(409),
        delete("/api/v1/workflows/{id}", "Delete a workflow that nothing uses")
            .one::<KeptWorkflow>()
            .versioned()
            .refuses(409),
        get("/api/v1/workflows/{id}/versions", "List the versions of a workflow, the newest first")
            .page::<KeptWorkflow>(),
        get("/api/v1/workflows/{id}/versions/{version}", "Read an older version of a workflow")
            .one::<KeptWorkflow>(),
        post(
            "/api/v1/workflows/{id}/versions/{version}/restore",
            "Make an older version of a workflow the next one",
        )
        .query::<workflows::Leniency>()
        .one::<KeptWorkflow>()
        .versioned()
        .refuses(422),
    ]
}
