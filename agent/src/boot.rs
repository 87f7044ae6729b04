//! From the question of a machine to its script.
//!
//! `request` reads the question, `decide` answers it from what is known, `render` puts the answer into words that iPXE
//! understands with the `values` of one machine, `report` reads what machines report; none of them knows a socket, a clock or a database. `booter` and `reporter`
//! are the shell around them, `http`, `calls` and `library` are what machines reach over HTTP and TFTP.

pub mod decide;
pub mod inputs;
pub mod render;
pub mod report;
pub mod request;
pub mod values;

pub mod booter;
pub mod calls;
pub mod http;
pub mod library;
pub mod reporter;
