//! A machine behind a link that loses, delays, doubles and reorders, in simulated time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

/// How long the machine waits before it says again what it said last.
const MACHINE_WAIT_MS: u64 = 1_000;

/// What the link does to a datagram, in percent of them.
#[derive(Debug, Clone, Copy)]
struct Link {
    lost: u32,
    doubled: u32,
    late: u32,
    /// The longest time that a late one needs, in milliseconds; the others need one.
    late_ms: u64,
}

/// A small generator of reproducible chance (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }
}

/// A machine that reads: it takes blocks in order and acknowledges each whole window.
struct Machine {
    block_len: usize,
    window: u64,
    /// Whether it acknowledges every block that it does not expect, as EDK2 does.
    is_eager: bool,
    has: u64,
    acked: u64,
    gap_told: bool,
    got: Vec<u8>,
    is_complete: bool,
}

impl Machine {
    fn begin(&mut self) {
        (self.has, self.acked, self.gap_told) = (0, 0, false);
        self.got.clear();
    }

    /// What it answers to a datagram.
    fn handle(&mut self, packet: Packet<'_>) -> Option<u64> {
        match packet {
            Packet::OptionAck(_) => (self.has == 0).then_some(0),
            Packet::Data { block, data }
                if block == on_the_wire(self.has + 1) && !self.is_complete =>
            {
                self.has += 1;
                self.gap_told = false;
                self.got.extend_from_slice(data);
                self.is_complete = data.len() < self.block_len;
                let is_due = self.is_complete || self.has >= self.acked + self.window;
                is_due.then(|| self.ack())
            }
            Packet::Data { .. } if self.is_eager || self.is_complete => Some(self.ack()),
            // RFC 7440 §4: a gap is told once.
            Packet::Data { .. } => {
                let is_told = std::mem::replace(&mut self.gap_told, true);
                (!is_told).then(|| self.ack())
            }
            other => panic!("{other:?} is nothing that this server says here"),
        }
    }

    fn ack(&mut self) -> u64 {
        self.acked = self.has;
        self.acked
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    AtMachine(Vec<u8>),
    /// An ACK, or the request if none.
    AtServer(Option<u64>),
    MachineTimer {
        heard: u64,
    },
}

struct Simulation {
    link: Link,
    chance: Chance,
    queue: BinaryHeap<Reverse<(u64, u64, Arrival)>>,
    order: u64,
    disturbances: u64,
}

impl Simulation {
    fn at(&mut self, time_ms: u64, arrival: Arrival) {
        self.order += 1;
        self.queue.push(Reverse((time_ms, self.order, arrival)));
    }

    fn carry(&mut self, now_ms: u64, make: impl Fn() -> Arrival) {
        let copies = 1 + u64::from(self.chance.percent(self.link.doubled));
        self.disturbances += copies - 1;
        for _ in 0..copies {
            if self.chance.percent(self.link.lost) {
                self.disturbances += 1;
                continue;
            }
            let is_late = self.chance.percent(self.link.late);
            self.disturbances += u64::from(is_late);
            let delay_ms = if is_late { 1 + self.chance.below(self.link.late_ms) } else { 1 };
            self.at(now_ms + delay_ms, make());
        }
    }
}

/// What a simulated transfer came to.
struct Run {
    got: Vec<u8>,
    outcome: Option<Outcome>,
    blocks: u64,
    datagrams: u64,
    disturbances: u64,
    window: u64,
}

fn run(size_bytes: u64, asked: &str, is_eager: bool, link: Link, seed: u64) -> Run {
    let agreement = negotiate(&options(asked), LOOPBACK, size_bytes);
    let window = u64::from(agreement.window);
    let mut machine = Machine {
        block_len: agreement.block_len.into(),
        window,
        is_eager,
        has: 0,
        acked: 0,
        gap_told: false,
        got: Vec::new(),
        is_complete: false,
    };
    let mut simulation = Simulation {
        link,
        chance: Chance(seed | 1),
        queue: BinaryHeap::new(),
        order: 0,
        disturbances: 0,
    };
    #[expect(clippy::disallowed_methods, reason = "a transfer needs some instant to begin at")]
    let begin = Instant::now();
    let to_instant = |time_ms| begin + Duration::from_millis(time_ms);
    let mut server: Option<(Transfer, u64)> = None;
    let mut outcome = None;
    let mut datagrams = 0;
    let mut now_ms = 0;
    let mut heard = 0;
    let mut said = None;
    simulation.carry(0, || Arrival::AtServer(None));
    simulation.at(MACHINE_WAIT_MS, Arrival::MachineTimer { heard });
    while outcome.is_none() {
        assert!(now_ms < 3_600_000, "the transfer does not end");
        let next_ms = simulation.queue.peek().map_or(u64::MAX, |Reverse((at_ms, ..))| *at_ms);
        let deadline_ms = server.as_ref().map_or(u64::MAX, |(_, deadline_ms)| *deadline_ms);
        now_ms = now_ms.max(next_ms.min(deadline_ms));
        let now = to_instant(now_ms);
        if deadline_ms <= next_ms {
            let (transfer, _) = server.as_mut().expect("a deadline belongs to a transfer");
            transfer.handle_timeout(now);
        } else if let Some(Reverse((_, _, arrival))) = simulation.queue.pop() {
            match arrival {
                Arrival::AtServer(None) => {
                    server.get_or_insert_with(|| {
                        (Transfer::new(&agreement, size_bytes, 4_096, now), now_ms)
                    });
                }
                Arrival::AtServer(Some(block)) => {
                    if let Some((transfer, _)) = &mut server {
                        transfer.handle_packet(Packet::Ack { block: on_the_wire(block) }, now);
                    }
                }
                Arrival::AtMachine(datagram) => {
                    heard += 1;
                    if let Some(block) = machine.handle(Packet::parse(&datagram).expect("a packet"))
                    {
                        said = Some(block);
                        simulation.carry(now_ms, || Arrival::AtServer(Some(block)));
                    }
                    simulation.at(now_ms + MACHINE_WAIT_MS, Arrival::MachineTimer { heard });
                }
                Arrival::MachineTimer { heard: then } if then == heard && !machine.is_complete => {
                    // Blocks that came since the last ACK are acknowledged with it.
                    said = said.map(|_| machine.ack());
                    let said = said;
                    simulation.disturbances += 1;
                    simulation.carry(now_ms, || Arrival::AtServer(said));
                    simulation.at(now_ms + MACHINE_WAIT_MS, Arrival::MachineTimer { heard });
                }
                Arrival::MachineTimer { .. } => {}
            }
        }
        let Some((transfer, deadline_ms)) = &mut server else { continue };
        let ended = loop {
            match transfer.poll_output() {
                Output::Read { offset, len } => transfer.handle_data(read(offset, len), now),
                Output::Send(Datagrams { bytes, datagram_len }) => {
                    for datagram in bytes.chunks(datagram_len) {
                        datagrams += 1;
                        simulation.carry(now_ms, || Arrival::AtMachine(datagram.to_vec()));
                    }
                }
                Output::WaitUntil(deadline) => {
                    let wait = deadline.saturating_duration_since(begin);
                    *deadline_ms =
                        u64::try_from(wait.as_nanos().div_ceil(1_000_000)).expect("a short time");
                    break None;
                }
                Output::Done(outcome) => break Some(outcome),
            }
        };
        match ended {
            // Nothing that either said came through in time, so the machine begins anew.
            Some(Outcome::Silent | Outcome::Unconfirmed)
                if transfer.tally().acked_bytes == 0 && !machine.is_complete =>
            {
                server = None;
                said = None;
                machine.begin();
            }
            ended => outcome = ended,
        }
    }
    let blocks = size_bytes / u64::from(agreement.block_len) + 1;
    let disturbances = simulation.disturbances;
    Run { got: machine.got, outcome, blocks, datagrams, disturbances, window }
}

fn any_asked() -> impl Strategy<Value = (u64, String)> {
    let blocks = prop_oneof![0..12u64, 0..300u64];
    (blocks, 8..700u64, 1..70u64, 0..3u64, any::<bool>()).prop_map(
        |(blocks, blksize, windowsize, rest, is_plain)| {
            let (block_len, asked) = if is_plain {
                (512, String::new())
            } else {
                (blksize, format!("blksize {blksize} windowsize {windowsize}"))
            };
            (blocks * block_len + rest, asked)
        },
    )
}

fn check_run(size_bytes: u64, run: &Run) -> Result<(), TestCaseError> {
    prop_assert!(
        run.got == read(0, usize::try_from(size_bytes).expect("a small file")),
        "the bytes differ"
    );
    prop_assert!(matches!(run.outcome, Some(Outcome::Complete | Outcome::Unconfirmed)));
    Ok(())
}

proptest! {
    #[test]
    fn f18_a_bad_link_delivers_every_byte(
        (size_bytes, asked) in any_asked(),
        is_eager in any::<bool>(),
        (lost, doubled, late) in (0..=30u32, 0..20u32, 0..50u32),
        late_ms in 1..500u64,
        seed in any::<u64>(),
    ) {
        let link = Link { lost, doubled, late, late_ms };
        let run = run(size_bytes, &asked, is_eager, link, seed);
        check_run(size_bytes, &run)?;
        // Each thing that goes wrong costs a window at most, twice if it also looks wrong from the other side.
        let bound = run.blocks + 2 * run.window * (run.disturbances + 1) + 6;
        prop_assert!(run.datagrams <= bound, "{} datagrams, at most {bound}", run.datagrams);
    }

    #[test]
    fn f7_a_good_link_carries_each_block_once(
        (size_bytes, asked) in any_asked(),
        is_eager in any::<bool>(),
    ) {
        let link = Link { lost: 0, doubled: 0, late: 0, late_ms: 1 };
        let run = run(size_bytes, &asked, is_eager, link, 1);
        check_run(size_bytes, &run)?;
        prop_assert_eq!(run.outcome, Some(Outcome::Complete));
        prop_assert!(run.datagrams <= run.blocks + 1);
    }

    #[test]
    fn f7_doubled_datagrams_do_not_multiply_in_lock_step(blocks in 1..300u64, seed in any::<u64>()) {
        let link = Link { lost: 0, doubled: 100, late: 0, late_ms: 1 };
        let run = run(blocks * 512, "", true, link, seed);
        check_run(blocks * 512, &run)?;
        prop_assert_eq!(run.datagrams, run.blocks);
    }

    #[test]
    fn f7_a_reordering_link_costs_an_eager_machine_little(seed in any::<u64>()) {
        let link = Link { lost: 0, doubled: 0, late: 1, late_ms: 3 };
        let run = run(16 * 2_000, "blksize 16 windowsize 4", true, link, seed);
        check_run(16 * 2_000, &run)?;
        prop_assert!(run.datagrams * 100 <= run.blocks * 120, "{} for {}", run.datagrams, run.blocks);
    }
}
