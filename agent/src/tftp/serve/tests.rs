use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use smol::future::{self, FutureExt};
use smol::{Async, Task, Timer};

use super::*;
use crate::tftp::packet::{self, ErrorCode, Mode, Options, Packet};

/// How long a test waits for an answer before it fails.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Files in memory, and what became of their transfers.
#[derive(Default)]
struct Shelf {
    finished: RefCell<Vec<Finished>>,
    /// How often a file was looked up that cannot be told of at first.
    busy: Cell<usize>,
}

struct File {
    size_bytes: u64,
    disk: Disk,
}

/// How reads go.
#[derive(Clone, Copy, PartialEq)]
enum Disk {
    InMemory,
    Sound,
    Broken,
    Stuck,
}

impl Library for Shelf {
    type Source = File;

    async fn find(&self, request: &Request) -> io::Result<Option<File>> {
        let name = request.name.as_str();
        let (kind, name) = name.split_once("/boot/").unwrap_or(("", name));
        let disk = match kind {
            "memory" => Disk::InMemory,
            "broken" => Disk::Broken,
            "stuck" => Disk::Stuck,
            _ => Disk::Sound,
        };
        if kind == "busy" {
            self.busy.set(self.busy.get() + 1);
            if self.busy.get() == 1 {
                return Err(io::Error::other("no descriptors left"));
            }
        }
        let size = name.strip_prefix("boot/").unwrap_or(name).parse().ok();
        Ok(size.map(|size_bytes| File { size_bytes, disk }))
    }

    fn handle_finished(&self, finished: &Finished) {
        self.finished.borrow_mut().push(finished.clone());
    }
}

impl Source for File {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_now(&self, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
        Ok((self.disk == Disk::InMemory).then(|| content(offset, len)))
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match self.disk {
            Disk::InMemory => panic!("what is in memory needs no disk"),
            Disk::Sound => Ok(content(offset, len)),
            Disk::Broken => Err(io::ErrorKind::InvalidData.into()),
            Disk::Stuck => future::pending().await,
        }
    }
}

fn content(offset: u64, len: usize) -> Vec<u8> {
    (offset..).take(len).map(|at| u8::try_from(at % 251).expect("a remainder of 251")).collect()
}

/// A server that runs while a test does.
struct Site {
    address: SocketAddr,
    shelf: Rc<Shelf>,
    active: Rc<Cell<usize>>,
    server: Option<Task<Infallible>>,
}

fn with_site(address: &str, test: impl AsyncFnOnce(Site)) {
    with_limits(Limits::default(), address, test);
}

fn with_limits(limits: Limits, address: &str, test: impl AsyncFnOnce(Site)) {
    with_listener(
        Listener::bind(address.parse().expect("an address")).expect("a free port"),
        limits,
        test,
    );
}

fn with_listener(listener: Listener, limits: Limits, test: impl AsyncFnOnce(Site)) {
    let executor = Rc::new(LocalExecutor::new());
    let (shelf, active) = (Rc::new(Shelf::default()), Rc::new(Cell::new(0)));
    let address = listener.local_addr();
    let serving =
        serve(listener, shelf.clone(), executor.clone(), limits, active.clone(), Arc::default());
    let server = executor.spawn(serving);
    future::block_on(executor.run(test(Site { address, shelf, active, server: Some(server) })));
}

impl Site {
    /// Waits until no transfer is left, and tells how they ended.
    async fn outcomes(&self) -> Vec<Outcome> {
        while self.active.get() > 0 {
            future::yield_now().await;
        }
        self.shelf.finished.borrow().iter().map(|finished| finished.outcome).collect()
    }
}

/// What a machine's socket sees.
struct Machine {
    socket: Async<UdpSocket>,
    server: SocketAddr,
}

impl Machine {
    fn new(server: SocketAddr) -> Self {
        let socket = Async::<UdpSocket>::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        Self { socket, server }
    }

    async fn say(&self, datagram: &[u8], to: SocketAddr) {
        self.socket.send_to(datagram, to).await.expect("loopback carries it");
    }

    async fn ack(&self, block: u16, to: SocketAddr) {
        let mut datagram = Vec::new();
        Packet::Ack { block }.emit(&mut datagram);
        self.say(&datagram, to).await;
    }

    async fn ask(&self, name: &str, options: Options) {
        let request = packet::Request { name: name.as_bytes(), mode: Mode::Octet, options };
        let mut datagram = Vec::new();
        Packet::ReadRequest(request).emit(&mut datagram);
        self.say(&datagram, self.server).await;
    }

    async fn hear(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let received = async { self.socket.recv_from(&mut buffer).await.expect("a datagram") };
        let silence = async {
            Timer::after(ANSWER_MAX).await;
            panic!("no answer");
        };
        let (len, from) = received.or(silence).await;
        buffer.truncate(len);
        (buffer, from)
    }

    async fn hear_error(&self) -> (ErrorCode, String) {
        let (datagram, _) = self.hear().await;
        match Packet::parse(&datagram) {
            Ok(Packet::Error { code, text }) => (code, String::from_utf8_lossy(text).into_owned()),
            other => panic!("{other:?} is no error"),
        }
    }

    /// Reads a file as a machine does.
    async fn fetch(&self, name: &str, options: Options) -> Vec<u8> {
        self.ask(name, options).await;
        let (mut block_len, mut window) = (512, 1);
        let (mut file, mut has, mut acked) = (Vec::new(), 0_u16, 0_u16);
        loop {
            let (datagram, from) = self.hear().await;
            match Packet::parse(&datagram) {
                Ok(Packet::OptionAck(answer)) => {
                    block_len = answer.blksize.unwrap_or(512);
                    window = u16::try_from(answer.windowsize.unwrap_or(1)).expect("a window");
                    self.ack(0, from).await;
                }
                Ok(Packet::Data { block, data }) if block == has.wrapping_add(1) => {
                    has = block;
                    file.extend_from_slice(data);
                    let is_last = u64::try_from(data.len()).is_ok_and(|len| len < block_len);
                    if is_last || has.wrapping_sub(acked) == window {
                        acked = has;
                        self.ack(has, from).await;
                    }
                    if is_last {
                        return file;
                    }
                }
                Ok(Packet::Data { .. }) => {}
                other => panic!("{other:?} is not expected"),
            }
        }
    }
}

fn windowed(blksize: u64, windowsize: u64) -> Options {
    Options { blksize: Some(blksize), windowsize: Some(windowsize), ..Options::default() }
}

#[test]
fn every_byte_arrives_with_any_options() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        for (size, options) in [
            (0, Options::default()),
            (1_024, Options::default()),
            (100_000, Options { tsize_bytes: Some(0), ..Options::default() }),
            (300_000, windowed(1_468, 1)),
            (300_000, windowed(1_468, 4)),
            (1_500_000, windowed(1_468, 64)),
            (1_500_000, windowed(65_464, 2)),
            (65_536 * 16, windowed(8, 64)),
        ] {
            let file = machine.fetch(&format!("/boot//{size}"), options).await;
            assert!(file == content(0, size), "{size} bytes with {options:?}");
            // The next request comes from the same port; the last ACK may be behind it on a busy machine.
            site.outcomes().await;
        }
        assert_eq!(site.outcomes().await, [Outcome::Complete; 8]);
        let finished = site.shelf.finished.borrow();
        assert_eq!(finished[2].request.name.as_str(), "boot/100000");
        assert_eq!((finished[2].size_bytes, finished[2].tally.acked_bytes), (100_000, 100_000));
    });
}

#[test]
fn hostile_datagrams_are_answered_as_they_deserve_and_change_nothing() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        // F1: nothing of this is answered; the first answer belongs to what follows.
        for datagram in [
            &b""[..],
            b"\0",
            b"\0\x01",
            b"\0\x09",
            b"\xff\xff\xff",
            b"\0\x03\0\x01x",
            b"\0\x05\0\0x",
            &[0xff; 65_000],
        ] {
            machine.say(datagram, site.address).await;
        }
        for (datagram, code) in [
            // F2
            (&b"\0\x01boot/10"[..], ErrorCode::ILLEGAL_OPERATION),
            (&[b"\0\x01", &[b'a'; 300][..], b"\0octet\0"].concat(), ErrorCode::ILLEGAL_OPERATION),
            (&[b"\0\x01a\0octet\0", &[b'a'; 600][..]].concat(), ErrorCode::ILLEGAL_OPERATION),
            // F4
            (b"\0\x01boot/10\0netascii\0", ErrorCode::NOT_DEFINED),
            (b"\0\x01boot/10\0mail\0", ErrorCode::NOT_DEFINED),
            // F12
            (b"\0\x02boot/10\0octet\0", ErrorCode::ACCESS_VIOLATION),
            // F13
            (b"\0\x01../../etc/passwd\0octet\0", ErrorCode::FILE_NOT_FOUND),
            (b"\0\x01..\\..\\boot.ini\0octet\0", ErrorCode::FILE_NOT_FOUND),
            (b"\0\x01\xc0\xae\xc0\xae/10\0octet\0", ErrorCode::FILE_NOT_FOUND),
        ] {
            machine.say(datagram, site.address).await;
            let (answered, text) = machine.hear_error().await;
            assert_eq!(answered, code, "{}: {text}", datagram.escape_ascii());
            // F10
            let is_cure = code == ErrorCode::NOT_DEFINED;
            assert!(
                is_cure == text.contains("-m binary")
                    && (is_cure || text.len() + 5 <= datagram.len())
            );
        }
        assert_eq!(machine.fetch("boot/10", Options::default()).await, content(0, 10));
        assert_eq!(site.outcomes().await, [Outcome::Complete]);
    });
}

#[test]
fn f5_a_repeated_request_is_one_transfer() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        for _ in 0..5 {
            machine.ask("boot/2000", windowed(1_468, 4)).await;
        }
        assert_eq!(machine.fetch("boot/2000", windowed(1_468, 4)).await, content(0, 2_000));
        assert_eq!(site.outcomes().await, [Outcome::Complete]);
        assert_eq!(site.shelf.finished.borrow()[0].tally.datagrams, 3);
    });
}

#[test]
fn a_machine_that_turns_to_another_file_gets_it() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        machine.ask("boot/2000", Options::default()).await;
        machine.hear().await;
        assert_eq!(machine.fetch("boot/10", windowed(8, 4)).await, content(0, 10));
        assert_eq!(site.outcomes().await, [Outcome::Displaced, Outcome::Complete]);
    });
}

#[test]
fn f6_another_port_changes_nothing_in_a_transfer() {
    with_site("127.0.0.1:0", async |site| {
        let (machine, other) = (Machine::new(site.address), Machine::new(site.address));
        machine.ask("boot/600", Options::default()).await;
        let (_, transfer) = machine.hear().await;
        other.ack(1, transfer).await;
        other.say(b"\0\x05\0\0go away\0", transfer).await;
        machine.ack(1, transfer).await;
        let (datagram, from) = machine.hear().await;
        let expected = Packet::Data { block: 2, data: &content(512, 88) };
        assert_eq!((Packet::parse(&datagram), from), (Ok(expected), transfer));
        machine.ack(2, transfer).await;
        assert_eq!(site.outcomes().await, [Outcome::Complete]);
    });
}

#[test]
fn f11_a_request_from_the_port_of_tftp_gets_no_answer() {
    let address = (Ipv4Addr::new(127, 0, 0, 9), 69);
    let Ok(socket) = Async::<UdpSocket>::bind(address) else {
        // Only a privileged process can play this attacker; `limits.rs` tests the rule itself.
        return;
    };
    with_site("127.0.0.1:0", async |site| {
        let attacker = Machine { socket, server: site.address };
        attacker.ask("boot/10", Options::default()).await;
        let machine = Machine::new(site.address);
        assert_eq!(machine.fetch("boot/10", Options::default()).await, content(0, 10));
        assert_eq!(site.outcomes().await, [Outcome::Complete]);
        let mut buffer = [0; 4];
        let error = attacker.socket.get_ref().recv(&mut buffer).expect_err("silence");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn the_answer_comes_from_the_address_that_was_asked_and_a_new_port() {
    for listening in ["0.0.0.0:0", "[::]:0"] {
        with_site(listening, async |site| {
            for asked in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)] {
                let asked = SocketAddr::from((asked, site.address.port()));
                let machine = Machine::new(asked);
                machine.ask("boot/10", Options::default()).await;
                let (_, from) = machine.hear().await;
                assert_eq!(from.ip(), asked.ip());
                assert_ne!(from.port(), asked.port());
                machine.ack(1, from).await;
                machine.ask("missing", Options::default()).await;
                assert_eq!(machine.hear().await.1, asked);
            }
            assert_eq!(site.outcomes().await, [Outcome::Complete; 2]);
        });
    }
}

#[test]
fn ipv6_machines_are_served() {
    let Ok(socket) = Async::<UdpSocket>::bind((Ipv6Addr::LOCALHOST, 0)) else {
        // A host without IPv6.
        return;
    };
    with_site("[::1]:0", async |site| {
        let machine = Machine { socket, server: site.address };
        let file = machine.fetch("boot/300000", windowed(1_428, 16)).await;
        assert!(file == content(0, 300_000));
        assert_eq!(site.outcomes().await, [Outcome::Complete]);
    });
}

#[test]
fn with_a_single_port_every_transfer_leaves_from_the_one_that_was_asked() {
    let mut listener = Listener::bind((Ipv4Addr::UNSPECIFIED, 0).into()).expect("a free port");
    listener.share_port().expect("an option of every system");
    with_listener(listener, Limits::default(), async |site| {
        let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, site.address.port()));
        let (first, second, third) =
            (Machine::new(asked), Machine::new(asked), Machine::new(asked));
        // Two of them are half way while the third reads a whole file.
        for machine in [&first, &second] {
            machine.ask("boot/2000", Options::default()).await;
            let (_, from) = machine.hear().await;
            assert_eq!(from, asked);
        }
        assert!(third.fetch("boot/300000", windowed(1_468, 16)).await == content(0, 300_000));
        // One goes on, and the other turns to another file by the same two ports, which it asks for until it is heard.
        for block in 1..=4 {
            first.ack(block, asked).await;
        }
        second.ask("boot/10", Options::default()).await;
        while site.active.get() > 0 {
            future::yield_now().await;
        }
        second.ask("boot/10", Options::default()).await;
        let (datagram, from) = second.hear().await;
        let expected = Packet::Data { block: 1, data: &content(0, 10) };
        assert_eq!((Packet::parse(&datagram), from), (Ok(expected), asked));
        second.ack(1, asked).await;
        let mut outcomes = site.outcomes().await;
        outcomes.sort_by_key(|outcome| *outcome == Outcome::Displaced);
        use Outcome::{Complete, Displaced};
        assert_eq!(outcomes, [Complete, Complete, Complete, Displaced]);
    });
}

#[test]
fn no_block_is_longer_than_the_site_allows() {
    let limits = Limits { block_len_max: 1_380, ..Limits::default() };
    with_limits(limits, "127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        for (asked, agreed) in [(1_468, 1_380), (1_380, 1_380), (512, 512)] {
            machine.ask("boot/4321", windowed(asked, 1)).await;
            let (datagram, from) = machine.hear().await;
            assert_eq!(Packet::parse(&datagram), Ok(Packet::OptionAck(windowed(agreed, 1))));
            machine.say(b"\0\x05\0\x08no\0", from).await;
        }
        assert_eq!(site.outcomes().await, [Outcome::Probe; 3]);
    });
}

#[test]
fn a_probe_is_no_failure() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        machine.ask("boot/4321", Options { tsize_bytes: Some(0), ..windowed(1_468, 4) }).await;
        let (datagram, from) = machine.hear().await;
        let answer = Options { tsize_bytes: Some(4_321), ..windowed(1_468, 4) };
        assert_eq!(Packet::parse(&datagram), Ok(Packet::OptionAck(answer)));
        machine.say(b"\0\x05\0\x08User aborted the transfer\0", from).await;
        assert_eq!(site.outcomes().await, [Outcome::Probe]);
    });
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        machine.ask("broken/boot/10", Options::default()).await;
        assert_eq!(machine.hear_error().await.0, ErrorCode::NOT_DEFINED);
        assert_eq!(site.outcomes().await, [Outcome::ReadFailed]);
    });
}

#[test]
fn what_is_in_memory_is_sent_without_the_disk() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        let file = machine.fetch("memory/boot/300000", windowed(1_468, 16)).await;
        assert!(file == content(0, 300_000));
        assert_eq!(site.outcomes().await, [Outcome::Complete]);
    });
}

#[test]
fn d12_a_disk_that_is_stuck_stalls_nobody_else() {
    with_site("127.0.0.1:0", async |site| {
        let stuck: Vec<_> = (0..7).map(|_| Machine::new(site.address)).collect();
        for machine in &stuck {
            machine.ask("stuck/boot/2000", Options::default()).await;
        }
        let machine = Machine::new(site.address);
        let file = machine.fetch("memory/boot/300000", windowed(1_468, 4)).await;
        assert!(file == content(0, 300_000));
        while site.active.get() != stuck.len() {
            future::yield_now().await;
        }
    });
}

#[test]
fn a_file_that_nobody_can_tell_of_at_the_moment_is_not_called_missing() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        machine.ask("busy/boot/10", Options::default()).await;
        while site.shelf.busy.get() == 0 || site.active.get() > 0 {
            future::yield_now().await;
        }
        // Were there an answer to the first request, this would read it.
        assert_eq!(machine.fetch("busy/boot/10", Options::default()).await, content(0, 10));
        assert_eq!(site.outcomes().await, [Outcome::Complete]);
    });
}

#[test]
fn a_machine_that_is_gone_ends_its_transfer_at_once() {
    with_site("127.0.0.1:0", async |site| {
        let machine = Machine::new(site.address);
        machine.ask("boot/2000", Options::default()).await;
        let (_, transfer) = machine.hear().await;
        machine.ack(1, transfer).await;
        drop(machine);
        assert_eq!(site.outcomes().await, [Outcome::Silent]);
    });
}

#[test]
fn transfers_end_with_the_server() {
    with_site("127.0.0.1:0", async |mut site| {
        let machine = Machine::new(site.address);
        machine.ask("boot/2000", Options::default()).await;
        machine.hear().await;
        assert_eq!(site.active.get(), 1);
        drop(site.server.take());
        assert_eq!(site.outcomes().await, [Outcome::Displaced]);
        assert_eq!(Rc::strong_count(&site.shelf), 1);
    });
}
