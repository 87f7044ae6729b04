//! What one call may use, and what is seen of it. Nothing of it outlives the call.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use wasmtime::{ResourceLimiter, StoreContextMut, Trap};

use crate::contract::Level;
use crate::facts::{Node, NodeCache, NodesAsked, NodesSaid};

/// The most lines that a call's log keeps.
pub const LOG_LINES_MAX: usize = 32;

/// The most bytes that a call's log keeps.
pub const LOG_LEN_MAX: usize = 4 << 10;

/// The most elements in one table.
const TABLE_ELEMENTS_MAX: usize = 40_000;

/// The most core instances, tables and memories of one component: an interpreter with shared libraries has 25 instances.
const PARTS_MAX: usize = 64;

/// What a call into the host costs, in fuel: a microsecond or two of the host's time is so much work of the guest's.
const HOST_CALL_FUEL: u64 = 1_000;

/// The most questions for nodes of one call that are kept.
const NODES_SAID_MAX: usize = 64;

/// How much fuel is burnt until the executor may do something else.
pub(crate) const YIELD_FUEL: u64 = 20_000;

/// How much a line of a policy's log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// For the policy's author.
    Debug,
    /// For the site's operator.
    Info,
    /// Somebody should look.
    Warn,
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
        }
    }
}

/// A line that a policy logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How much it matters.
    pub severity: Severity,
    /// What it says, without control characters.
    pub text: String,
}

/// What a policy logged during a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogBook {
    /// The lines that were kept.
    pub lines: Vec<LogLine>,
    /// How many were not kept, or not whole.
    pub dropped: u64,
    len: usize,
}

impl LogBook {
    pub(crate) fn write(&mut self, severity: Severity, text: &str) {
        for line in text.lines() {
            let room = LOG_LEN_MAX.saturating_sub(self.len);
            if self.lines.len() >= LOG_LINES_MAX || room == 0 {
                self.dropped += 1;
                continue;
            }
            let kept = line.floor_char_boundary(room);
            self.dropped += u64::from(kept < line.len());
            // Whoever reads the log with a terminal shall see text and no commands to the terminal.
            let is_shown = |letter: &char| !letter.is_control();
            let text: String =
                line.get(..kept).unwrap_or_default().chars().filter(is_shown).collect();
            self.len += kept;
            self.lines.push(LogLine { severity, text });
        }
    }
}

/// What memory a call has, and how much of it was used.
#[derive(Debug)]
pub(crate) struct Meter {
    memory_max: usize,
    in_use: usize,
    pub(crate) was_denied: bool,
}

impl Meter {
    pub(crate) fn new(memory_mib: u16) -> Self {
        Self { memory_max: usize::from(memory_mib) << 20, in_use: 0, was_denied: false }
    }

    /// The memory that the call had at its end, in bytes; memories never shrink.
    pub(crate) fn memory_len(&self) -> usize {
        self.in_use
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.in_use.saturating_add(desired.saturating_sub(current));
        let is_granted = wanted <= self.memory_max;
        if is_granted {
            self.in_use = wanted;
        } else {
            self.was_denied = true;
        }
        Ok(is_granted)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let is_granted = desired <= TABLE_ELEMENTS_MAX;
        self.was_denied |= !is_granted;
        Ok(is_granted)
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

/// Everything that belongs to one call.
pub(crate) struct State {
    pub(crate) meter: Meter,
    pub(crate) log: LogBook,
    pub(crate) nodes: Option<Arc<dyn NodeCache>>,
    /// What it was told of nodes, so that the call can be repeated.
    pub(crate) nodes_said: Vec<NodesSaid>,
    /// Unix seconds: the time that the facts are of, and no clock's.
    pub(crate) now: u32,
    /// The last of the numbers that stand for chance.
    pub(crate) number: u64,
    /// The fuel that was left when the executor last had its turn within a call into the host.
    gave_way_at: Option<u64>,
}

impl State {
    pub(crate) fn new(memory_mib: u16, nodes: Option<Arc<dyn NodeCache>>, now: u32) -> Self {
        Self {
            meter: Meter::new(memory_mib),
            log: LogBook::default(),
            nodes,
            nodes_said: Vec::new(),
            now,
            number: 0,
            gave_way_at: None,
        }
    }
}

impl State {
    /// The site's nodes as the policy may see them; none without the right to.
    pub(crate) fn nodes(&mut self, asked: NodesAsked) -> Vec<Node> {
        let Some(cache) = &self.nodes else { return Vec::new() };
        let nodes = match &asked {
            NodesAsked::Mac(mac) => cache.get(*mac).into_iter().collect(),
            NodesAsked::Group(group) => cache.in_group(group),
        };
        if self.nodes_said.len() < NODES_SAID_MAX {
            self.nodes_said.push(NodesSaid { asked, nodes: nodes.clone() });
        }
        nodes
    }
}

/// Takes the price of a call into the host that moved `len` bytes.
///
/// # Errors
/// The guest has not enough fuel left, and ends here.
pub(crate) fn pay(store: &mut StoreContextMut<'_, State>, len: usize) -> wasmtime::Result<()> {
    let price = HOST_CALL_FUEL.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    match store.get_fuel()?.checked_sub(price) {
        Some(rest) => store.set_fuel(rest),
        None => {
            store.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}

/// Lets the executor do something else if it has been a while. The engine does so too, but begins to count anew whenever fuel is taken.
///
/// # Errors
/// The engine has no fuel.
pub(crate) async fn give_way(store: &mut StoreContextMut<'_, State>) -> wasmtime::Result<()> {
    let left = store.get_fuel()?;
    let gave_way_at = *store.data_mut().gave_way_at.get_or_insert(left);
    if gave_way_at.saturating_sub(left) < YIELD_FUEL {
        return Ok(());
    }
    store.data_mut().gave_way_at = Some(left);
    let mut has_waited = false;
    poll_fn(|context| {
        if has_waited {
            return Poll::Ready(Ok(()));
        }
        has_waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_a_log_keeps_so_many_lines_and_counts_the_others() {
        let mut log = LogBook::default();
        for number in 0..1_000 {
            log.write(Severity::Info, &number.to_string());
        }
        assert_eq!((log.lines.len(), log.dropped), (LOG_LINES_MAX, 968));
        let mut log = LogBook::default();
        log.write(Severity::Info, &"\n".repeat(1_000));
        assert_eq!(log.lines.len(), LOG_LINES_MAX, "one message of many lines is many lines");
    }

    #[test]
    fn p9_a_log_keeps_so_many_bytes_and_whole_letters() {
        let mut log = LogBook::default();
        log.write(Severity::Info, &"\u{e4}".repeat(LOG_LEN_MAX));
        log.write(Severity::Info, "more");
        assert_eq!((log.lines[0].text.len(), log.lines.len(), log.dropped), (LOG_LEN_MAX, 1, 2));
    }

    #[test]
    fn a_log_has_no_commands_to_a_terminal() {
        let mut log = LogBook::default();
        log.write(Severity::Warn, "a\u{1b}[2Jb\r");
        assert_eq!(log.lines[0].text, "a[2Jb");
    }

    #[test]
    fn p2_memories_share_one_limit() {
        let mut meter = Meter::new(2);
        assert!(meter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(meter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(!meter.memory_growing(1 << 20, (1 << 20) + 1, None).unwrap());
        assert!(meter.was_denied);
        assert_eq!(meter.memory_len(), 2 << 20);
    }
}
