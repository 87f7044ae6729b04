//! Every type that the agent and the controller exchange, and the rules that both must read alike.
//!
//! Nothing here does I/O, reads a clock or makes a random number; `serde` is the one dependency. The field names are the
//! JSON names of the HTTP surface, so changing one changes the wire.

mod answer;
mod apart;
mod boot;
mod change;
mod command;
mod conflict;
mod content;
mod feed;
mod heartbeat;
mod hex;
mod id;
mod mac;
mod manifest;
mod migration;
mod node;
mod plugins;
mod registration;
mod secret;
pub mod session;
mod sheet;
mod signed;
mod site;
mod template;
mod text;
mod time;
mod update;
mod variable;
mod workflow;

pub use answer::{FieldError, Page, Problem, Success};
pub use boot::{Arch, BootMode, BootRecord, BootRequest, Platform, RecordGroup, VALID_FOR_SECONDS};
pub use change::{
    BatchLimits, ChainHash, Change, ChangeBatch, ChangeHead, ChangeId, ChangePayload,
    ChangeReceipt, ChangeResult, ClockQuality, DEAD_LETTER_PAYLOAD_MAX, DeadLetter, Epoch,
    IDENTITY_IN_USE, Instance, InstanceId, OUTBOX_FORKED, Outcome, RegisterNode,
};
pub use command::{
    COMMAND_RESULTS_MAX, COMMANDS_MAX, CommandOutcome, CommandResult, Invalid, NodeOrder, Order,
    PendingCommand, SiteCommand, SiteOrder,
};
pub use conflict::{
    BaseSide, CentralSide, Conflict, ConflictEnding, ConflictKind, Decider, MergeFields,
    Resolution, SiteResolution, SiteSide,
};
pub use content::{Category, ContentHash, ContentKey, ContentKeyError};
pub use feed::{NodeChange, NodeChanges, NodeRecords, SignedRecords, Told};
pub use heartbeat::{Heartbeat, HeartbeatAnswer, Service};
pub use hex::HexError;
pub use id::{
    AgentId, BootId, ClaimId, CommandId, ConflictId, GroupId, IdError, NodeId, SiteId, TemplateId,
    TokenId, UserId, WorkflowId,
};
pub use mac::{Mac, MacError};
pub use manifest::{Chunks, Manifest, ManifestEntry, PublicKey, Signature, SignedManifest};
pub use migration::{ForeignBoot, ForeignNode};
pub use node::{HealthStatus, Lifecycle, LifecycleError, Node, NodeEvent, NodeEventKind};
pub use plugins::{
    Capability, EngineId, FAILURE_LEN_MAX, OnFailure, POLICIES_MAX, PluginId, PluginMode,
    PluginVersion, PluginWordError, PoliciesReport, PolicyAssignment, PolicyReport, PolicyState,
    package_key,
};
pub use registration::{CredentialAnnouncement, RegistrationAnswer, RegistrationRequest};
pub use secret::{CredentialHash, RegistrationToken, Secret, TokenError};
pub use sheet::{AnswerFile, AnswerSheet, AnswerValue, Nonce, SheetAnswer, SheetQuestion};
pub use signed::{Sealed, Signed};
pub use site::{
    AgentStatus, Autonomy, CachePolicy, ConflictResolution, DiscoveryMethod, MigrationPolicy,
    SiteConfig, UnknownWord,
};
pub use template::{FileName, FileNameError, TemplateKind};
pub use text::{
    ARGUMENT_ALPHABET, COMMAND_LINE_LEN_MAX, CommandLine, CommandLineError, FACT_LEN_MAX,
    HardwareFact,
};
pub use time::{Timestamp, TimestampError};
pub use update::{
    AgentUpdate, MarkSearch, NotAnAgent, PROGRAM_LEN_MAX, ProgramVersion, ReleaseMark,
    SignedUpdate, Target, UpdateEnded, UpdateFate, UpdateReport, UpdateState, program_key,
    program_of,
};
pub use variable::{CommandLineTemplate, CommandLineTemplateError, FillError, Variable};
pub use workflow::{
    Assignment, BootMethod, DiskName, DriveNumber, SanSource, SanSourceError, SanUri, Workflow,
};
