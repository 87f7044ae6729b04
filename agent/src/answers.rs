//! Answer files: what an installer reads instead of asking a person, rendered here, with the controller or without it.
//!
//! `sheet` says what of the controller's answer is believed, `values` what a template sees, `gate` who may have secrets; all three are
//! pure. `shelf` keeps sheets, texts and who was given what in `state/site.db`. `keeper` brings them up to date and `serve` hands files to
//! machines; `manage` shows them to a person, without their secrets.
//!
//! No secret is in a log line, an error or `Debug`, and none is in memory but while a file is rendered or a sheet is taken.

pub mod gate;
pub mod keeper;
pub mod manage;
pub mod render;
pub mod serve;
pub mod sheet;
pub mod shelf;
pub mod values;
