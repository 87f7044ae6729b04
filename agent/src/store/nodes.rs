//! What the site knows of its machines, and the mirror of it in memory from which machines are answered.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use pureboot_protocol::{
    Assignment, BootRecord, BootRequest, ForeignNode, Lifecycle, Mac, NodeId, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{Json, Store, StoreError, Word, feed};

/// How many machines the site may know that the controller does not, with a record of the site's own or without one; a machine's
/// address is easily made up.
pub const UNKNOWN_NODES_MAX: usize = 1_000;

/// A machine as the site knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedNode {
    /// The controller's id, or the one that the site gave where it was the first to see the machine.
    pub node_id: NodeId,
    /// What the machine said of itself, all boots taken together.
    pub facts: BootRequest,
    /// What the controller knows; none or a record of version 0 for a machine that only the site knows.
    pub known: Option<KnownRecord>,
    /// Its last request for a script.
    pub last_seen_at: Option<Timestamp>,
    /// The newest wish of the centre for which an installer was handed out; [`BootRecord::wish`] numbers them.
    pub install_given_version: Option<u64>,
    /// Whether an installer was handed out for what a person at the site wishes; none where what `known` wishes is the centre's, which
    /// has numbered it.
    pub own_wish_given: Option<bool>,
    /// The change by which the site last moved the state in `known`, or took the order away that is acknowledged with it.
    pub state_seq: Option<u64>,
    /// Whether the controller is to be asked about it: what is known may not be the controller's last word.
    pub is_due: bool,
    /// What the controller has said of it, if it is a node of another site.
    pub elsewhere: Option<Elsewhere>,
}

/// What the controller has said of a machine that is a node of another site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    /// What this site is to do with it.
    pub node: ForeignNode,
    /// When the controller was asked.
    pub told_at: Timestamp,
}

/// The controller's record of a machine, with what the machine has since reported at the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRecord {
    /// The record.
    pub record: BootRecord,
    /// The controller's word as of then: when it was asked for the record, or last acknowledged a change of it.
    pub fetched_at: Timestamp,
}

/// Whether an installation may be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallGiven {
    /// Now, and never again for this wish.
    Now,
    /// It has been handed out before.
    Before,
}

/// What has become of a record that the controller has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is what the site goes by now.
    Taken,
    /// It is what the site goes by now, and older than what it went by: the controller has been restored (FAULTS C17).
    Restored,
    /// The site has learnt more since the controller was asked.
    Overtaken,
    /// The controller does not know yet what the site has seen of the node.
    Unacknowledged,
}

impl CachedNode {
    /// Whether the controller has never told anything about it. Its versions begin at 1; the site writes 0.
    pub(crate) fn is_known_here_only(&self) -> bool {
        self.known.as_ref().is_none_or(|known| known.record.version == 0)
    }

    /// A machine of which only the address is known.
    pub fn new(mac: Mac, node_id: NodeId) -> Self {
        Self {
            node_id,
            facts: BootRequest::new(mac),
            known: None,
            last_seen_at: None,
            install_given_version: None,
            own_wish_given: None,
            state_seq: None,
            is_due: false,
            elsewhere: None,
        }
    }

    /// The boot interface; there is one node for each.
    pub fn mac(&self) -> Mac {
        self.facts.mac
    }

    /// Whether an installer was handed out for what `record` wishes.
    pub(crate) fn has_given(&self, record: &BootRecord) -> bool {
        self.own_wish_given.unwrap_or(self.install_given_version >= Some(record.wish()))
    }

    /// Goes by `record` from now on. An installation that was given for the old one counts as given for this one as well where
    /// the wish is the same and only now has a number, or another one.
    fn adopt(&mut self, record: BootRecord, asked_at: Timestamp) {
        if let Some(KnownRecord { record: old, .. }) = &self.known
            && self.has_given(old)
            && self.is_same_wish(old, &record)
        {
            self.install_given_version = self.install_given_version.max(Some(record.wish()));
        }
        self.own_wish_given = None;
        self.node_id = record.node_id;
        self.known = Some(KnownRecord { record, fetched_at: asked_at });
        self.state_seq = None;
        self.is_due = false;
        self.elsewhere = None;
    }

    /// Whether `old`, by which the site goes, and `new` want the same of the machine, as far as that writes its disk, where the
    /// numbers of their wishes cannot tell. What cannot be told apart is the same: then an installer may be missing, and none is given
    /// twice.
    fn is_same_wish(&self, old: &BootRecord, new: &BootRecord) -> bool {
        let is_own = self.own_wish_given.is_some();
        if !is_own && old.wish_version.is_some() && new.wish_version.is_some() {
            return false;
        }
        let workflow = |record: &BootRecord| {
            record.workflow.as_ref().map(|assignment| match assignment {
                Assignment::Known(workflow) => Some(workflow.id),
                Assignment::Foreign { .. } => None,
            })
        };
        // What the machine has done since, the site knows before the centre.
        let is_wished =
            if is_own { new.state == Lifecycle::Pending } else { old.state == new.state };
        is_wished && old.node_id == new.node_id && workflow(old) == workflow(new)
    }

    /// Takes over what a request says; what it leaves out stays.
    pub(super) fn learn(&mut self, request: BootRequest) {
        let old = self.facts.clone();
        self.facts = BootRequest {
            mac: old.mac,
            arch: request.arch.or(old.arch),
            platform: request.platform.or(old.platform),
            uuid: request.uuid.or(old.uuid),
            serial: request.serial.or(old.serial),
            vendor: request.vendor.or(old.vendor),
            product: request.product.or(old.product),
        };
    }
}

/// All nodes in memory; written by the store's thread after a commit, and by nobody else.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mirror {
    nodes: Arc<RwLock<HashMap<Mac, CachedNode>>>,
}

impl Mirror {
    // A poisoned lock is used on: each write replaces one whole value.
    fn read<T>(&self, look: impl FnOnce(&HashMap<Mac, CachedNode>) -> T) -> T {
        look(&self.nodes.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn put(&self, node: CachedNode) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(node.mac(), node);
    }

    pub(super) fn replace(&self, nodes: Vec<CachedNode>) {
        let nodes = nodes.into_iter().map(|node| (node.mac(), node)).collect();
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    pub(super) fn forget(&self, mac: Mac) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(&mac);
    }

    fn count(&self, is_counted: impl Fn(&CachedNode) -> bool) -> usize {
        self.read(|nodes| nodes.values().filter(|node| is_counted(node)).count())
    }

    pub(super) fn all(&self) -> Vec<CachedNode> {
        self.read(|nodes| nodes.values().cloned().collect())
    }
}

impl Store {
    /// The machine with this address, from memory, as of the last commit. Does not wait.
    pub fn node(&self, mac: Mac) -> Option<CachedNode> {
        self.look_at(mac, CachedNode::clone)
    }

    /// What `look` sees of the machine with this address: as [`node`](Self::node), without a copy of all that is known.
    pub fn look_at<T>(&self, mac: Mac, look: impl FnOnce(&CachedNode) -> T) -> Option<T> {
        self.nodes.read(|nodes| nodes.get(&mac).map(look))
    }

    /// The machine with this id, from memory, as of the last commit. Does not wait.
    pub fn node_by_id(&self, id: NodeId) -> Option<CachedNode> {
        self.nodes.read(|nodes| nodes.values().find(|node| node.node_id == id).cloned())
    }

    /// Every machine, from memory, in no order. Does not wait.
    pub fn nodes(&self) -> Vec<CachedNode> {
        self.nodes.all()
    }

    /// How many of the machines are nodes of other sites. Does not wait.
    pub fn elsewhere_count(&self) -> usize {
        self.nodes.count(|node| node.elsewhere.is_some())
    }

    /// How many machines the site knows. Does not wait.
    pub fn node_count(&self) -> usize {
        self.nodes.read(HashMap::len)
    }

    /// Takes over the controller's record of a machine. `asked_at` is when the question was asked, not when it was answered.
    ///
    /// While a change by which the site moved the node's state is not acknowledged, the old record stands: the controller's
    /// answer does not know of that change yet, and would send a machine that has just been installed into its installer again,
    /// or have it do again what it has been ordered to do.
    ///
    /// The old record also stands where it has a higher version and was confirmed since the question was asked: an
    /// acknowledgement has overtaken the answer. A lower version that was asked for later is taken, because the controller has
    /// been restored from a backup (FAULTS C17); all other nodes are asked for anew then.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn save_record(
        &self,
        record: BootRecord,
        asked_at: Timestamp,
    ) -> Result<CachedNode, StoreError> {
        let mirror = self.nodes.clone();
        self.run(move |db| {
            let transaction = db.transaction()?;
            let (node, fate) = take(&transaction, record, asked_at)?;
            let is_restored = fate == Fate::Restored;
            if is_restored {
                feed::begin_anew(&transaction)?;
                save(&transaction, &node)?;
            }
            transaction.commit()?;
            if is_restored {
                feed::warn_of_restore(&node);
                mirror.replace(load_all(db)?);
            }
            mirror.put(node.clone());
            Ok(node)
        })
        .await
    }

    /// Remembers what the controller, asked at `asked_at`, has said of a machine that is a node of another site; none if it is of no
    /// site. What the site alone has thought of the machine is over then. A machine that the site has never seen is not remembered.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn note_elsewhere(
        &self,
        mac: Mac,
        said: Option<ForeignNode>,
        asked_at: Timestamp,
    ) -> Result<(), StoreError> {
        let mirror = self.nodes.clone();
        self.run(move |db| {
            let Some(mut node) = load(db, mac)? else { return Ok(()) };
            node.elsewhere = said.map(|node| Elsewhere { node, told_at: asked_at });
            if said.is_some() && node.is_known_here_only() {
                node.known = None;
            }
            save(db, &node)?;
            mirror.put(node);
            Ok(())
        })
        .await
    }

    /// Asks to hand out the installation that the wish `wish` of the centre wants of a machine, or that a person at the site wants
    /// meanwhile, and remembers it before it answers: no disk is wiped twice for one wish, whatever happens in between.
    ///
    /// # Errors
    /// See [`StoreError`]; then it must not be handed out.
    pub async fn mark_install_given(
        &self,
        mac: Mac,
        wish: u64,
    ) -> Result<InstallGiven, StoreError> {
        let mirror = self.nodes.clone();
        self.run(move |db| {
            let transaction = db.transaction()?;
            // A machine of which nothing could be read may have had it.
            let Some(mut node) = load(&transaction, mac)? else { return Ok(InstallGiven::Before) };
            match &mut node.own_wish_given {
                Some(is_given) if !*is_given => *is_given = true,
                None if node.install_given_version < Some(wish) => {
                    node.install_given_version = Some(wish);
                }
                Some(_) | None => return Ok(InstallGiven::Before),
            }
            save(&transaction, &node)?;
            transaction.commit()?;
            mirror.put(node);
            Ok(InstallGiven::Now)
        })
        .await
    }
}

/// Keeps `record` if it is the controller's last word, and answers the node as it is then.
pub(super) fn take(
    db: &Connection,
    record: BootRecord,
    asked_at: Timestamp,
) -> rusqlite::Result<(CachedNode, Fate)> {
    let mut node = load(db, record.mac_address)?
        .unwrap_or_else(|| CachedNode::new(record.mac_address, record.node_id));
    let held = node.known.as_ref().map(|known| (known.record.version, known.fetched_at));
    let is_older = held.is_some_and(|(version, _)| record.version < version);
    // One that is in doubt already is no news.
    let was_due = node.is_due;
    let fate = if is_older && held.is_some_and(|(_, fetched_at)| fetched_at >= asked_at) {
        Fate::Overtaken
    } else if is_state_unacknowledged(db, &node)? {
        node.is_due = true;
        Fate::Unacknowledged
    } else {
        node.adopt(record, asked_at);
        if is_older && !was_due { Fate::Restored } else { Fate::Taken }
    };
    save(db, &node)?;
    Ok((node, fate))
}

fn is_state_unacknowledged(db: &Connection, node: &CachedNode) -> rusqlite::Result<bool> {
    let Some(seq) = node.state_seq else { return Ok(false) };
    let is_there = "SELECT 1 FROM outbox WHERE seq = ?1 AND seq > (SELECT acked_through FROM meta)";
    db.prepare_cached(is_there)?.exists([seq])
}

/// A node that the site is the first to see; `mirror` is as of the last commit.
pub(super) fn discover(
    mirror: &Mirror,
    request: &BootRequest,
    node_id: NodeId,
) -> Result<CachedNode, StoreError> {
    // Counted in memory: a flood of made-up addresses must not have the table read for each of them.
    if mirror.count(CachedNode::is_known_here_only) >= UNKNOWN_NODES_MAX {
        return Err(StoreError::Full);
    }
    Ok(CachedNode::new(request.mac, node_id))
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<CachedNode> {
    let record = row.get::<_, Option<Json<BootRecord>>>("record")?;
    let fetched_at = row.get::<_, Option<i64>>("fetched_at")?.map(Timestamp::from_unix_ms);
    // A database that is brought back from before a column has nothing to say.
    let elsewhere = row.get::<_, Option<Json<ForeignNode>>>("elsewhere").unwrap_or_default();
    let elsewhere_at = row.get::<_, Option<i64>>("elsewhere_at").unwrap_or_default();
    let elsewhere_at = elsewhere_at.map(Timestamp::from_unix_ms);
    Ok(CachedNode {
        node_id: row.get::<_, Word<_>>("node_id")?.0,
        facts: row.get::<_, Json<_>>("facts")?.0,
        known: record
            .zip(fetched_at)
            .map(|(Json(record), fetched_at)| KnownRecord { record, fetched_at }),
        last_seen_at: row.get::<_, Option<i64>>("last_seen_at")?.map(Timestamp::from_unix_ms),
        install_given_version: row.get("install_given_version")?,
        own_wish_given: row.get("own_wish_given").unwrap_or_default(),
        state_seq: row.get("state_seq")?,
        is_due: row.get("is_due")?,
        elsewhere: elsewhere
            .zip(elsewhere_at)
            .map(|(Json(node), told_at)| Elsewhere { node, told_at }),
    })
}

/// A row that cannot be read is as good as none, and is replaced when the machine is seen again.
fn readable<T>(result: rusqlite::Result<Option<T>>) -> rusqlite::Result<Option<T>> {
    match result {
        Err(error) if error.sqlite_error_code().is_none() => {
            log::error!(error:%; "what is known of a node cannot be read; it will be learnt anew");
            Ok(None)
        }
        result => result,
    }
}

pub(super) fn load(db: &Connection, mac: Mac) -> rusqlite::Result<Option<CachedNode>> {
    let mut statement = db.prepare_cached("SELECT * FROM nodes WHERE mac = ?1")?;
    readable(statement.query_row([Word(mac)], read).optional())
}

/// The node with this id; the one seen last, where two interfaces have it.
pub(crate) fn load_by_id(db: &Connection, id: NodeId) -> rusqlite::Result<Option<CachedNode>> {
    let mut statement =
        db.prepare_cached("SELECT * FROM nodes WHERE node_id = ?1 ORDER BY last_seen_at DESC")?;
    readable(statement.query_row([Word(id)], read).optional())
}

pub(crate) fn load_all(db: &Connection) -> rusqlite::Result<Vec<CachedNode>> {
    let mut nodes = Vec::new();
    let mut statement = db.prepare("SELECT * FROM nodes")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        nodes.extend(readable(read(row).map(Some))?);
    }
    Ok(nodes)
}

pub(crate) fn save(db: &Connection, node: &CachedNode) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO nodes (mac, node_id, facts, record, fetched_at, last_seen_at, install_given_version, own_wish_given, state_seq,
             is_due, elsewhere, elsewhere_at)
         VALUES (:mac, :node_id, :facts, :record, :fetched_at, :last_seen_at, :install_given_version, :own_wish_given,
             :state_seq, :is_due, :elsewhere, :elsewhere_at)
         ON CONFLICT (mac) DO UPDATE SET node_id = :node_id, facts = :facts, record = :record, fetched_at = :fetched_at,
             last_seen_at = :last_seen_at, install_given_version = :install_given_version, own_wish_given = :own_wish_given,
             state_seq = :state_seq, is_due = :is_due, elsewhere = :elsewhere, elsewhere_at = :elsewhere_at",
    )?
    .execute(named_params! {
        ":mac": Word(node.mac()),
        ":elsewhere": node.elsewhere.map(|elsewhere| Json(elsewhere.node)),
        ":elsewhere_at": node.elsewhere.map(|elsewhere| elsewhere.told_at.unix_ms()),
        ":node_id": Word(node.node_id),
        ":facts": Json(&node.facts),
        ":record": node.known.as_ref().map(|known| Json(&known.record)),
        ":fetched_at": node.known.as_ref().map(|known| known.fetched_at.unix_ms()),
        ":last_seen_at": node.last_seen_at.map(Timestamp::unix_ms),
        ":install_given_version": node.install_given_version,
        ":own_wish_given": node.own_wish_given,
        ":state_seq": node.state_seq,
        ":is_due": node.is_due,
    })?;
    Ok(())
}
