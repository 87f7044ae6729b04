//! What the controller says of nodes: signed for this site, or not believed.

use std::time::Duration;

use hyper::Method;
use pureboot_protocol::{
    BootRecord, ForeignNode, Mac, NodeChange, NodeChanges, NodeRecords, PublicKey, SignedRecords,
    SiteId, Success, Told,
};

use super::{CallError, Controller, UNHURRIED};
use crate::seal;

/// Nodes in one part of what has changed: with a workflow of usual size each, half of the longest answer that is read.
const PART_LEN: u16 = 200;

/// Whose word counts, and whom it must be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// The agent's site.
    pub site_id: SiteId,
    /// The key that was pinned when the agent joined.
    pub key: PublicKey,
}

/// What the controller knows of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAnswer {
    /// What decides its boots; none if it is not one of the site's.
    pub record: Option<BootRecord>,
    /// What the site is to do with it where it is a node of another one.
    pub foreign: Option<ForeignNode>,
    /// The newest number that concerns the site.
    pub version: u64,
}

impl Controller {
    /// Believes from now on what `trust` vouches for.
    pub fn trust(&self, trust: Trust) {
        self.trust.set(Some(trust));
    }

    /// What the controller knows of one machine.
    ///
    /// # Errors
    /// No answer in time, a refusal, or an answer that is not the controller's word about this machine.
    pub async fn node(&self, mac: Mac, budget: Duration) -> Result<NodeAnswer, CallError> {
        let (told, site) = self.told(&format!("mac={mac}"), budget).await?;
        match told {
            Told::Node { mac_address, record, foreign, version } if mac_address == mac => {
                let record = record.map(|record| *record);
                if record.as_ref().is_some_and(|it| it.mac_address != mac || !is_ours(it, site)) {
                    return Err(unbelieved(format!("asked for {mac}, told about another's node")));
                }
                Ok(NodeAnswer { record, foreign, version })
            }
            Told::Node { mac_address, .. } => {
                Err(unbelieved(format!("asked for {mac}, told about {mac_address}")))
            }
            Told::Changes(_) => Err(unbelieved(format!("asked for {mac}, told of changes"))),
        }
    }

    /// The next part of what has changed of the site's nodes after `since`. Another site's nodes are left out (FAULTS C16).
    ///
    /// # Errors
    /// No answer, a refusal, or an answer that is not the controller's word about that.
    pub async fn node_changes(&self, since: u64) -> Result<NodeChanges, CallError> {
        let query = format!("since_version={since}&limit={PART_LEN}");
        let (told, site) = self.told(&query, UNHURRIED).await?;
        let Told::Changes(mut changes) = told else {
            return Err(unbelieved("asked for what has changed, told of one node".to_owned()));
        };
        let begins = changes.since_version;
        let goes_on = changes.version > begins || changes.version == begins && !changes.has_more;
        if (begins != since && begins != 0) || !goes_on {
            let version = changes.version;
            let what = format!("asked for what follows {since}, told {begins} to {version}");
            return Err(unbelieved(what));
        }
        changes.data.retain(|change| match change {
            NodeChange::Present(record) if !is_ours(record, site) => {
                log::error!(
                    mac:% = record.mac_address;
                    "the controller tells of {}, which is another site's; that is left out",
                    record.mac_address
                );
                false
            }
            NodeChange::Present(_) | NodeChange::Left { .. } => true,
        });
        Ok(changes)
    }

    async fn told(&self, query: &str, budget: Duration) -> Result<(Told, SiteId), CallError> {
        let path = format!("/api/v1/agents/nodes?{query}");
        let answer: Success<SignedRecords> = self.call(Method::GET, &path, None, budget).await?;
        let Some(Trust { site_id, key }) = self.trust.get() else {
            return Err(unbelieved(
                "no key of the controller is pinned: make a new token for the site and run `pureboot-agent init --rejoin`"
                    .to_owned(),
            ));
        };
        let records: NodeRecords =
            seal::open(&answer.data, &key).map_err(|error| unbelieved(error.to_string()))?;
        if records.site_id != site_id {
            return Err(unbelieved(format!("it is site {}'s", records.site_id)));
        }
        Ok((records.told, site_id))
    }
}

fn is_ours(record: &BootRecord, site: SiteId) -> bool {
    record.home_site_id.is_none_or(|home| home == site)
}

/// An alarm, and no answer: somebody else speaks for the controller, or it speaks to somebody else (FAULTS C16, N7).
fn unbelieved(what: String) -> CallError {
    log::error!("what is said of the site's nodes is not believed: {what}");
    CallError::Foreign(what)
}
