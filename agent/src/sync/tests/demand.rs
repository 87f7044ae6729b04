//! Machines that ask for what has not come yet.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::net::{TcpListener, TcpStream};
use smol::{LocalExecutor, Timer};

use crate::cache::Wanted;
use crate::clock;
use crate::http::testing::Client;
use crate::http::{
    Connection, Content, CorrelationId, Limits, Response, Service, Target, content_type, not_now,
    object_response, on_its_way, problem, serve, unread_status,
};
use crate::sync::demand::{Demand, Found};

use super::*;

const IMAGE: &str = "images/large.img";

/// Answers machines as the boot listener does.
struct Machines(Rc<Demand>);

impl Service for Machines {
    async fn handle(&self, request: Request<Incoming>, _: Connection) -> Response {
        let id = CorrelationId::of(&request);
        let (parts, _) = request.into_parts();
        let target = Target::parse(&parts.uri).expect("a test asks for what it may");
        let key = key(&target.rest(0));
        let content = match self.0.find(&key).await {
            Found::Here(object) => Content::from(object),
            Found::Coming(object, arrival) => Content::coming(object, arrival),
            Found::Passing(through) => {
                let Wanted { sha256, size_bytes, .. } = *through.wanted();
                Content::passing(sha256, size_bytes, |range| through.bytes(range))
            }
            Found::Later => return on_its_way(unread_status(&key), &id),
            Found::Failed(failure) => {
                return not_now(unread_status(&key), "failed", failure.to_string(), &id);
            }
            Found::Unknown => return problem(StatusCode::NOT_FOUND, "unknown", "unknown", &id),
        };
        object_response(&parts, content_type(&key), unread_status(&key), content).await
    }
}

async fn serve_machines(executor: &Rc<LocalExecutor<'static>>, site: &Site) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
    let address = listener.local_addr().expect("an address");
    let (server, service) = (Rc::clone(executor), Rc::new(Machines(Rc::clone(&site.demand))));
    let limits = Limits { connections_per_address_max: 128, ..Limits::default() };
    let serving = async move { serve(&server, listener, limits, service).await };
    executor.spawn(serving).detach();
    address
}

/// A machine's GET: the status, and how many bytes of the body came, each of them as in `expected`. With `leave_after` it
/// leaves after so many.
async fn get(
    address: SocketAddr,
    name: &str,
    expected: &[u8],
    leave_after: Option<usize>,
) -> (u16, usize) {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let request = format!("GET /{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the server takes bytes");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("ASCII");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    if status != 200 {
        return (status, 0);
    }
    let (mut buffer, mut len) = (vec![0; 64 << 10], 0);
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        assert!(expected[len..].starts_with(&buffer[..read]), "a wrong byte behind {len}");
        len += read;
        if leave_after.is_some_and(|most| len >= most) {
            break;
        }
    }
    (status, len)
}

#[test]
fn fifty_machines_cost_one_fetch_and_half_of_them_may_leave() {
    let content = noise(12 << 20);
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(IMAGE, &content)]);
        upstream.set_pause(Duration::from_millis(20));
        let site = Site::new(&executor, &upstream);
        site.keeper.refresh(Duration::ZERO, false).await.expect("a manifest");
        let address = serve_machines(&executor, &site).await;
        let content = Rc::new(content);
        let machines: Vec<_> = (0..50)
            .map(|number| {
                let content = Rc::clone(&content);
                let leave_after = (number % 2 == 0).then_some(2 << 20);
                executor.spawn(async move { get(address, IMAGE, &content, leave_after).await })
            })
            .collect();
        for (number, machine) in machines.into_iter().enumerate() {
            let (status, len) = machine.await;
            assert_eq!(status, 200);
            assert!(number % 2 == 0 || len == content.len(), "machine {number} got {len} bytes");
        }
        assert_eq!(upstream.objects_asked(), 1);
        assert_eq!(upstream.sent_bytes(), content.len() as u64);
    });
}

#[test]
fn who_looked_before_it_came_does_not_have_it_fetched_again() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel")]);
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        upstream.issue(2, &[(KERNEL, b"kernel"), (INITRD, b"initrd")]);
        let address = serve_machines(&executor, &site).await;
        // The machine asks for a name that the agent asks the controller for, after a rest in which the content comes.
        let (machine, sync) = smol::future::zip(get(address, INITRD, b"initrd", None), async {
            Timer::after(Duration::from_millis(100)).await;
            site.sync.sync(Order::default()).await
        })
        .await;
        assert_eq!((machine, sync.files_synced), ((200, 6), 1));
        assert_eq!(upstream.objects_asked(), 2);
    });
}

#[test]
fn a_long_image_flows_before_its_last_byte_is_here_and_goes_on_when_nobody_reads() {
    let content = noise(12 << 20);
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(IMAGE, &content)]);
        upstream.set_pause(Duration::from_millis(50));
        let site = Site::new(&executor, &upstream);
        site.keeper.refresh(Duration::ZERO, false).await.expect("a manifest");
        let address = serve_machines(&executor, &site).await;
        let (status, _) = get(address, IMAGE, &content, Some(1)).await;
        assert_eq!(status, 200);
        assert!(upstream.sent_bytes() < content.len() as u64, "the first byte came with the last");
        while !site.cache.holds(&hash_of(&content)) {
            Timer::after(Duration::from_millis(10)).await;
        }
        assert_eq!(get(address, IMAGE, &content, None).await, (200, content.len()));
        assert_eq!(upstream.objects_asked(), 1);
    });
}

#[test]
fn c11_no_byte_flows_that_the_manifest_does_not_vouch_for() {
    let (image, loader) = (noise(12 << 20), noise(100_000));
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(IMAGE, &image), (LOADER, &loader)]);
        upstream.set_fault(Fault::WrongBytes);
        let site = Site::new(&executor, &upstream);
        site.keeper.refresh(Duration::ZERO, false).await.expect("a manifest");
        let address = serve_machines(&executor, &site).await;
        // `get` compares each byte. The middle of each rest is wrong, so the end never comes.
        let (status, len) = get(address, IMAGE, &image, None).await;
        assert!(status == 200 && len < image.len(), "{status}, {len} bytes");
        assert_eq!(get(address, LOADER, &loader, None).await, (500, 0));
        upstream.set_fault(Fault::None);
        assert_eq!(get(address, LOADER, &loader, None).await, (200, loader.len()));
        assert_eq!(get(address, IMAGE, &image, None).await, (200, image.len()));
    });
}

#[test]
fn a_name_that_is_new_at_the_controller_is_found_by_the_machine_that_asks_for_it() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel")]);
        let site = Site::new(&executor, &upstream);
        let address = serve_machines(&executor, &site).await;
        assert_eq!(get(address, KERNEL, b"kernel", None).await, (200, 6));
        let asked = clock::monotonic();
        for number in 0..50 {
            let name = format!("scripts/nothing-{number}");
            assert_eq!(get(address, &name, b"", None).await, (404, 0));
        }
        assert!(clock::monotonic() - asked < Duration::from_secs(1), "loaders try many names");
        upstream.issue(2, &[(KERNEL, b"kernel"), (INITRD, b"initrd")]);
        assert_eq!(get(address, INITRD, b"initrd", None).await, (200, 6));
        assert_eq!(upstream.manifests_sent(), 2);
    });
}

#[test]
fn a_loader_that_is_missing_comes_by_tftp_at_the_first_or_the_second_question() {
    let (small, large) = (noise(50_000), noise(6 << 20));
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(LOADER, &small), (KERNEL, &large)]);
        let site = Site::new(&executor, &upstream);
        site.keeper.refresh(Duration::ZERO, false).await.expect("a manifest");
        let found = site.demand.find_briefly(&key(LOADER)).await.expect("the disk is well");
        assert!(matches!(found, Found::Here(object) if object.size_bytes == 50_000));
        upstream.set_pause(Duration::from_millis(500));
        let found = site.demand.find_briefly(&key(KERNEL)).await.expect("the disk is well");
        assert!(matches!(found, Found::Later));
        Timer::after(Duration::from_millis(1_500)).await;
        let found = site.demand.find_briefly(&key(KERNEL)).await.expect("the disk is well");
        assert!(matches!(found, Found::Here(_)));
        assert_eq!(upstream.objects_asked(), 2);
        let found = site.demand.find_briefly(&key("images/nothing")).await.expect("well");
        assert!(matches!(found, Found::Unknown));
    });
}

#[test]
fn without_the_controller_what_is_here_is_served_and_what_is_not_is_told_at_once() {
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(KERNEL, b"kernel"), (IMAGE, b"image")]);
        upstream.withhold(hash_of(b"image"));
        let site = Site::new(&executor, &upstream);
        site.sync.sync(Order::default()).await;
        upstream.set_fault(Fault::Portal);
        for _ in 0..3 {
            _ = site.keeper.refresh(Duration::ZERO, false).await;
        }
        let address = serve_machines(&executor, &site).await;
        let asked = clock::monotonic();
        assert_eq!(get(address, KERNEL, b"kernel", None).await, (200, 6));
        assert_eq!(get(address, IMAGE, b"image", None).await, (503, 0));
        assert_eq!(get(address, "images/other", b"", None).await, (404, 0));
        assert!(clock::monotonic() - asked < Duration::from_secs(1));
    });
}

#[test]
fn d2_what_the_cache_has_no_room_for_is_given_past_it_and_verified_all_the_same() {
    let (image, kernel) = (noise((12 << 20) + 5), noise(30_000));
    run(async |executor| {
        let upstream = Upstream::start(&executor).await;
        upstream.issue(1, &[(IMAGE, &image), (KERNEL, &kernel)]);
        let site = Site::new(&executor, &upstream);
        site.set_config(|config| config.cache_max_size_gb = Some(0));
        let address = serve_machines(&executor, &site).await;
        assert_eq!(get(address, IMAGE, &image, None).await, (200, image.len()));
        assert_eq!(get(address, KERNEL, &kernel, None).await, (200, kernel.len()));
        let mut client = Client::connect(address).await;
        let part = client.get(&format!("/{IMAGE}"), "Range: bytes=3000000-5000000\r\n").await;
        assert_eq!((part.status, &part.body[..]), (206, &image[3_000_000..=5_000_000]));
        upstream.set_fault(Fault::CutAfter(2_500_000));
        assert_eq!(get(address, IMAGE, &image, None).await, (200, image.len()), "resumed");
        upstream.set_fault(Fault::WrongBytes);
        let (_, len) = get(address, IMAGE, &image, None).await;
        assert!(len < image.len(), "`get` compares what came, and the end must not");
        assert_eq!(get(address, KERNEL, &kernel, None).await, (503, 0));
        assert_eq!(site.cache.stats().size_bytes, 0);
        let left = fs::read_dir(site.data_dir.cache().join("tmp")).expect("a directory").count();
        assert_eq!(left, 0);
    });
}
