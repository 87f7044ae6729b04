//! TFTP (RFC 1350) with the options of RFC 2347, 2348, 2349 and 7440.
//!
//! | module | what it is |
//! |---|---|
//! | [`packet`] | datagrams from and to bytes |
//! | [`options`] | what a machine asks for against what it gets |
//! | [`name`] | the name of a file as a key |
//! | [`transfer`] | one transfer, without I/O |
//! | [`limits`], [`sources`] | which request may begin a transfer, and from where |
//! | [`refusals`] | which requests got no answer, counted for people |
//! | [`serve`] | the sockets |

pub mod limits;
pub mod name;
pub mod options;
pub mod packet;
pub mod refusals;
pub mod serve;
pub mod sources;
pub mod transfer;
