//! Whoever is inside tries to get out. Walls hold the thread that puts them up and those that it starts, so each trial has a thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use rusqlite::Connection;
use rustix::thread::CapabilitySet;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use super::*;

/// A data directory, and what lies beside it.
struct Site {
    dir: TempDir,
    controller: TcpListener,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data/tmp")).unwrap();
        fs::write(dir.path().join("secret"), "not the agent's").unwrap();
        Self { dir, controller: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap() }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What comes of `attempt` inside, with the walls that this kernel could not put up.
    fn try_inside<T: Send>(&self, attempt: impl FnOnce() -> T + Send) -> (Vec<Wall>, T) {
        let data_dir = self.data();
        let plan = Plan {
            data_dir: &data_dir,
            ca_file: None,
            controller_port: self.controller.local_addr().unwrap().port(),
            kept: Kept::Nothing,
        };
        let inside = || (close(&plan), attempt());
        let (confinement, came) =
            thread::scope(|scope| scope.spawn(inside).join().expect("no attempt panics"));
        let Confinement::Closed { capabilities, gaps, .. } = confinement else {
            panic!("it was to be closed")
        };
        assert!(capabilities.is_empty(), "{capabilities:?}");
        (gaps.into_iter().map(|gap| gap.wall).collect(), came)
    }
}

fn kind<T>(outcome: io::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[test]
fn nothing_is_written_outside_of_the_data_directory_and_little_is_read() {
    let site = Site::new();
    let (beside, secret) = (site.dir.path().join("new"), site.dir.path().join("secret"));
    symlink(site.dir.path(), site.data().join("way-out")).unwrap();
    let (open, outcomes) = site.try_inside(|| {
        [
            kind(fs::write(&beside, "out")),
            kind(fs::write("/etc/pureboot-was-here", "out")),
            kind(fs::write(site.data().join("way-out/new"), "out")),
            kind(OpenOptions::new().append(true).open(&secret)),
            kind(fs::rename(site.data().join("tmp"), &beside)),
            kind(fs::remove_file(&secret)),
            kind(fs::hard_link(&secret, site.data().join("stolen"))),
            kind(fs::read(&secret)),
            kind(fs::read_dir("/")),
            kind(UnixListener::bind(site.data().join("back-door"))),
        ]
    });
    if open.contains(&Wall::Files) {
        return;
    }
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let is_refused =
            matches!(outcome, Some(ErrorKind::PermissionDenied | ErrorKind::CrossesDevices));
        assert!(is_refused, "attempt {number} came to {outcome:?}");
    }
}

#[test]
fn the_agents_own_work_goes_on_inside() {
    let site = Site::new();
    let data = site.data();
    let work = || {
        fs::write(data.join("tmp/part"), "content")?;
        File::options().write(true).open(data.join("tmp/part"))?.set_len(3)?;
        fs::create_dir_all(data.join("objects/ab"))?;
        fs::rename(data.join("tmp/part"), data.join("objects/ab/abcd"))?;
        File::open(data.join("objects/ab"))?.sync_all()?;
        fs::remove_dir(data.join("tmp"))?;
        fs::read("/etc/hosts")?;
        fs::read("/proc/net/arp")?;
        let name_service = "localhost:53".to_socket_addrs()?.count();
        UdpSocket::bind("127.0.0.1:0")?.send_to(b"datagram", site.controller.local_addr()?)?;
        nix::ifaddrs::getifaddrs()?.count();
        nix::net::if_::if_nametoindex("lo")?;
        thread::Builder::new().name("inside".to_owned()).spawn(|| ())?;
        Ok::<_, io::Error>(name_service)
    };
    let (_, done) = site.try_inside(work);
    assert!(done.expect("nothing of it is refused") > 0);
    assert_eq!(fs::read_to_string(site.data().join("objects/ab/abcd")).unwrap(), "con");
}

#[test]
fn sqlite_sorts_and_rolls_back_inside() {
    let site = Site::new();
    let (_, done) = site.try_inside(|| {
        let db = Connection::open(site.data().join("site.db"))?;
        db.execute_batch(
            "PRAGMA temp_store=2; PRAGMA cache_size=10; PRAGMA journal_mode=wal; CREATE TABLE rows (text TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             INSERT INTO rows SELECT hex(randomblob(100)) FROM n;
             CREATE INDEX by_text ON rows (text); BEGIN; DELETE FROM rows; ROLLBACK; VACUUM;",
        )?;
        db.query_row("SELECT count(*) FROM (SELECT text FROM rows ORDER BY lower(text))", [], |row| {
            row.get::<_, i64>(0)
        })
    });
    assert_eq!(done, Ok(20_000));
}

#[test]
fn no_program_is_started() {
    let site = Site::new();
    let program = site.data().join("program");
    fs::copy("/bin/true", &program).unwrap();
    let (open, outcomes) = site.try_inside(|| {
        [Command::new("/bin/true").status().is_err(), Command::new(&program).status().is_err()]
    });
    assert!(open.contains(&Wall::Calls) || outcomes == [true, true], "{outcomes:?}");
}

#[test]
fn no_connection_goes_elsewhere() {
    let site = Site::new();
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = |listener: &TcpListener| kind(TcpStream::connect(listener.local_addr().unwrap()));
    let (open, outcomes) = site.try_inside(|| (to(&site.controller), to(&elsewhere)));
    let refused = (!open.contains(&Wall::Connections)).then_some(ErrorKind::PermissionDenied);
    assert_eq!(outcomes, (None, refused));
}

#[test]
fn no_packet_goes_past_the_kernels_protocols_and_no_call_leads_out() {
    let site = Site::new();
    let raw = |domain, protocol| Socket::new(domain, Type::RAW, protocol).is_err();
    let (open, outcomes) = site.try_inside(|| {
        [
            raw(Domain::PACKET, None),
            raw(Domain::IPV4, Some(Protocol::ICMPV4)),
            Socket::new(Domain::VSOCK, Type::STREAM, None).is_err(),
            nix::unistd::chroot("/").is_err(),
            rustix::thread::set_keep_capabilities(true).is_err(),
        ]
    });
    assert!(open.contains(&Wall::Calls) || outcomes == [true; 5], "{outcomes:?}");
}

#[test]
fn rights_are_gone_for_good() {
    let site = Site::new();
    let (_, (again, capabilities)) = site.try_inside(|| {
        let all = rustix::thread::CapabilitySets {
            effective: CapabilitySet::NET_BIND_SERVICE,
            permitted: CapabilitySet::NET_BIND_SERVICE,
            inheritable: CapabilitySet::empty(),
        };
        (rustix::thread::set_capabilities(None, all), rights::names())
    });
    assert!(again.is_err() && capabilities.is_empty());
}

#[test]
fn a_person_reads_what_holds_and_what_does_not() {
    let closed = |gaps: Vec<Gap>, capabilities: &[&str]| Confinement::Closed {
        user: 998,
        capabilities: capabilities.iter().map(ToString::to_string).collect(),
        gaps,
    };
    let gap = |wall| Gap { wall, reason: "this kernel has no Landlock".to_owned() };
    for (confinement, line) in [
        (closed(Vec::new(), &[]), "closed, as user 998, without capabilities"),
        (
            closed(Vec::new(), &["CAP_NET_BIND_SERVICE"]),
            "closed, as user 998, with CAP_NET_BIND_SERVICE",
        ),
        (
            closed(vec![gap(Wall::Files), gap(Wall::Connections)], &[]),
            "OPEN for files (this kernel has no Landlock) and connections (this kernel has no Landlock); as user 998, \
             without capabilities",
        ),
        (Confinement::Off, "OPEN: switched off by [cage] in agent.toml or by --no-cage"),
    ] {
        assert_eq!(confinement.describe(), line);
        let json = serde_json::to_string(&confinement).unwrap();
        assert_eq!(serde_json::from_str::<Confinement>(&json).unwrap(), confinement);
    }
}
