//! What the controller does without being asked, one file a job.

pub(crate) mod agent_status;
pub(crate) mod install_timeout;
