//! What a transfer does when a script is played against it, as text.

use std::fmt::Write as _;

use super::*;

/// What a transfer does, as text.
pub(super) struct Transcript {
    pub(super) transfer: Transfer,
    begin: Instant,
    now: Instant,
    deadline: Instant,
    /// Reads that wait, if the disk does not answer at once.
    waiting: Option<Vec<(u64, usize)>>,
    is_done: bool,
    pub(super) text: String,
}

impl Transcript {
    pub(super) fn new(size_bytes: u64, asked: &str) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a transfer needs some instant to begin at")]
        let now = Instant::now();
        let agreement = negotiate(&options(asked), LOOPBACK, size_bytes);
        let transfer = Transfer::new(&agreement, size_bytes, PIECE_BYTES_MAX, now);
        Self {
            transfer,
            begin: now,
            now,
            deadline: now,
            waiting: None,
            is_done: false,
            text: String::new(),
        }
    }

    pub(super) fn drain(&mut self) {
        if self.is_done {
            return;
        }
        let at_ms = (self.now - self.begin).as_millis();
        loop {
            match self.transfer.poll_output() {
                Output::Read { offset, len } => match &mut self.waiting {
                    Some(waiting) => waiting.push((offset, len)),
                    None => self.transfer.handle_data(read(offset, len), self.now),
                },
                Output::Send(Datagrams { bytes, datagram_len }) => {
                    let mut shown = Vec::new();
                    for datagram in bytes.chunks(datagram_len) {
                        shown.push(match Packet::parse(datagram).expect("a packet") {
                            Packet::Data { block, data } => {
                                format!("data {block} ({} bytes)", data.len())
                            }
                            Packet::OptionAck(options) => format!("oack {}", show(&options)),
                            Packet::Error { code, .. } => format!("error {code}"),
                            other => panic!("{other:?} is nothing that a server sends"),
                        });
                    }
                    writeln!(self.text, "{at_ms}ms {}", shown.join(", ")).expect("a string");
                }
                Output::WaitUntil(deadline) => {
                    self.deadline = deadline;
                    return;
                }
                Output::Done(outcome) => {
                    writeln!(self.text, "{at_ms}ms done: {outcome:?}").expect("a string");
                    self.deadline = self.now + Duration::from_secs(3_600);
                    self.is_done = true;
                    return;
                }
            }
        }
    }

    pub(super) fn step(&mut self, command: &str) {
        let words: Vec<_> = command.split_whitespace().collect();
        let number = words.get(1).map(|word| word.parse().expect("a number"));
        match (words[0], number) {
            ("wait", Some(wait_ms)) => {
                let end = self.now + Duration::from_millis(wait_ms);
                while self.deadline <= end {
                    self.now = self.now.max(self.deadline);
                    self.transfer.handle_timeout(self.now);
                    self.drain();
                }
                self.now = end;
            }
            ("ack", Some(block)) => self.packet(Packet::Ack { block: on_the_wire(block) }),
            ("error", Some(code)) => {
                self.packet(Packet::Error { code: ErrorCode(on_the_wire(code)), text: b"" });
            }
            ("data", Some(block)) => {
                self.packet(Packet::Data { block: on_the_wire(block), data: b"" })
            }
            ("displace", None) => self.transfer.handle_displaced(),
            ("gone", None) => self.transfer.handle_unreachable(),
            ("slow", None) => self.waiting = Some(Vec::new()),
            ("read", None) => {
                for (offset, len) in self.waiting.take().expect("a slow disk") {
                    self.transfer.handle_data(read(offset, len), self.now);
                }
            }
            ("fail", None) => self.transfer.handle_read_error(),
            _ => panic!("{command} is no command"),
        }
        self.drain();
    }

    fn packet(&mut self, packet: Packet<'_>) {
        self.transfer.handle_packet(packet, self.now);
    }
}

fn show(options: &Options) -> String {
    let mut shown = Vec::new();
    let Options { blksize, timeout_s, tsize_bytes, windowsize } = options;
    for (name, value) in [
        ("blksize", blksize),
        ("timeout", timeout_s),
        ("tsize", tsize_bytes),
        ("windowsize", windowsize),
    ] {
        shown.extend(value.map(|value| format!("{name} {value}")));
    }
    shown.join(" ")
}

/// Plays `script` against the transfer of a file of `size_bytes` for which a machine asks with the options `asked`.
#[track_caller]
pub(super) fn check(size_bytes: u64, asked: &str, script: &str, expected: Expect) {
    let mut transcript = Transcript::new(size_bytes, asked);
    let commands = script.split(';').map(str::trim).filter(|command| !command.is_empty());
    if script.starts_with("slow") {
        transcript.waiting = Some(Vec::new());
    }
    transcript.drain();
    for command in commands.filter(|command| *command != "slow") {
        transcript.step(command);
    }
    expected.assert_eq(&transcript.text);
}
