//! A server on loopback against clients that behave as in FAULTS §7 and BOOT §5.

use std::cell::Cell;
use std::net::Ipv4Addr;

use hyper::StatusCode;
use hyper::body::Bytes;
use pureboot_protocol::ContentKey;
use smol::stream;

use crate::cache::{Cache, Expected};
use crate::clock;
use crate::http::testing::{Client, last_words, run, with_server};
use crate::http::{Target, content_type, object_response, read_body, script, unread_status};

use super::*;

const SCRIPT: &str = "#!ipxe\necho hello\n";

/// What the tests ask for.
struct TestService {
    cache: Option<Cache>,
    body_time: Duration,
}

impl Service for TestService {
    async fn handle(&self, request: Request<Incoming>, connection: Connection) -> Response {
        let id = CorrelationId::of(&request);
        let (parts, body) = request.into_parts();
        let not_found = || problem(StatusCode::NOT_FOUND, "not_found", "no such path", &id);
        let Ok(target) = Target::parse(&parts.uri) else { return not_found() };
        match target.segments().as_slice() {
            ["script"] => script(SCRIPT.to_owned()),
            ["local"] => script(format!("{:?} {:?}", connection.peer.is_some(), connection.local)),
            ["slow"] => {
                Timer::after(Duration::from_millis(100)).await;
                script(SCRIPT.to_owned())
            }
            ["mute"] => {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
            ["echo"] => match read_body(body, 64, clock::monotonic() + self.body_time).await {
                Ok(bytes) => Response::new(Body::Full(bytes)),
                Err(error) => error.answer(&id),
            },
            ["files", ..] => {
                let cache = self.cache.as_ref().expect("this test has a cache");
                let Ok(key) = target.rest(1).parse::<ContentKey>() else { return not_found() };
                match cache.find(&key).await {
                    Some(object) => {
                        let unread = unread_status(&key);
                        let response =
                            object_response(&parts, content_type(&key), unread, object).await;
                        let pace = target.query("pace").and_then(|pace| pace.parse().ok());
                        response.map(|body| match pace {
                            Some(bytes_per_s) => body.paced(bytes_per_s),
                            None => body,
                        })
                    }
                    None => not_found(),
                }
            }
            _ => not_found(),
        }
    }
}

/// Needs much room to make an answer.
struct Roomy;

impl Service for Roomy {
    async fn handle(&self, _: Request<Incoming>, _: Connection) -> Response {
        let room = [b' '; 1 << 16];
        smol::future::yield_now().await;
        script(String::from_utf8_lossy(&room).into_owned())
    }
}

/// What the state of a future takes that is made from an `A`, in bytes.
fn state_len<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn i7_a_connection_that_is_idle_has_no_room_for_the_making_of_an_answer() {
    let (here, limits) = (Connection { peer: None, local: None }, Limits::default());
    let answer_len = state_len(|request| respond(&Roomy, request, here));
    let exchange = Exchange::new(limits);
    let task_len = state_len(|stream: TcpStream| converse(stream, here, exchange, limits, &Roomy));
    assert!(answer_len + task_len < 8_192, "{answer_len} + {task_len}");
}

fn check(limits: Limits, test: impl AsyncFnOnce(SocketAddr)) {
    let service = TestService { cache: None, body_time: Duration::from_secs(10) };
    with_server(limits, service, test);
}

/// A server that has `contents`, and the directory of its cache.
fn check_files(
    limits: Limits,
    contents: &[(&str, &[u8])],
    test: impl AsyncFnOnce(SocketAddr, &std::path::Path),
) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let service = TestService { cache: Some(cache.clone()), body_time: Duration::from_secs(10) };
    with_server(limits, service, async |address| {
        for (key, bytes) in contents {
            let source = stream::iter([Ok(Bytes::copy_from_slice(bytes))]);
            cache.add(key.parse().unwrap(), source, Expected::default()).await.unwrap();
        }
        test(address, directory.path()).await;
    });
}

/// The server is well: it answers a new peer at once.
async fn assert_serves(address: SocketAddr) {
    let answer = Client::connect(address).await.get("/script", "").await;
    assert_eq!((answer.status, answer.text()), (200, SCRIPT));
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 + index / 251).to_le_bytes()[0]).collect()
}

#[test]
fn boot_5_1_every_answer_says_its_length() {
    check_files(Limits::default(), &[("images/empty", b"")], async |address, _| {
        let mut client = Client::connect(address).await;
        // `receive` fails without Content-Length, and with Transfer-Encoding.
        for (target, status, body) in [
            ("/script", 200, SCRIPT),
            ("/files/images/empty", 200, ""),
            ("//files///images//empty", 200, ""),
        ] {
            let answer = client.get(target, "").await;
            assert_eq!((answer.status, answer.text()), (status, body), "{target}");
        }
        assert_eq!(client.get("/nowhere", "").await.status, 404);
    });
}

#[test]
fn boot_5_3_a_head_is_answered_like_a_get_and_the_connection_stays_open() {
    let loader = pattern(5_000);
    check_files(Limits::default(), &[("bootloaders/a.efi", &loader)], async |address, _| {
        let mut client = Client::connect(address).await;
        for target in ["/script", "/files/bootloaders/a.efi", "/nowhere", "/mute"] {
            let fields = "X-Correlation-ID: same\r\n";
            client.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
            let head = client.receive(false).await.expect("an answer");
            let get = client.get(target, fields).await;
            let without_date = |fields: &[(String, String)]| {
                let mut fields = fields.to_vec();
                fields.retain(|(name, _)| name != "date");
                fields
            };
            assert_eq!(head.status, get.status, "{target}");
            assert_eq!(without_date(&head.fields), without_date(&get.fields), "{target}");
        }
    });
}

#[test]
fn boot_5_4_firmware_is_told_the_type_that_it_compares() {
    let names = ["bootloaders/a.efi", "bootloaders/loader", "images/b.ISO", "images/c.img"];
    let contents = names.map(|name| (name, &b"x"[..]));
    check_files(Limits::default(), &contents, async |address, _| {
        let mut client = Client::connect(address).await;
        for (name, expected) in names.into_iter().zip([
            "application/efi",
            "application/efi",
            "application/vnd.efi-iso",
            "application/vnd.efi-img",
        ]) {
            let answer = client.get(&format!("/files/{name}"), "").await;
            assert_eq!(answer.field("content-type"), Some(expected), "{name}");
        }
    });
}

#[test]
fn boot_5_5_every_error_has_a_body() {
    check(Limits::default(), async |address| {
        for (said, status) in [
            ("GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
            ("GET /mute HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
            ("GET /a;b HTTP/1.0\r\n\r\n", 404),
            ("BREW / HTTP/1.1\r\n\r\n", 405),
            ("\u{1}\u{2}\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("POST /echo HTTP/1.1\r\nContent-Length: 65\r\n\r\n", 413),
        ] {
            let answer = last_words(address, said).await.expect(said);
            assert_eq!(answer.status, status, "{said:?}");
            assert_eq!(answer.field("content-type"), Some("application/problem+json"));
            let problem: pureboot_protocol::Problem = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem.status, status, "{said:?}");
            assert_eq!(answer.field("x-correlation-id"), Some(problem.correlation_id.as_str()));
        }
    });
}

#[test]
fn boot_5_6_a_download_is_resumed_where_it_broke_off() {
    let image = pattern(1_000_003);
    check_files(Limits::default(), &[("images/a.img", &image)], async |address, _| {
        let mut client = Client::connect(address).await;
        let whole = client.get("/files/images/a.img", "").await;
        assert_eq!((whole.status, &whole.body), (200, &image));
        assert_eq!(whole.field("accept-ranges"), Some("bytes"));
        let etag = whole.field("etag").unwrap();
        let modified = whole.field("last-modified").unwrap();
        assert_eq!((etag.len(), &etag[..1]), (66, "\""), "a strong tag in double quotes");
        for fields in [
            format!("Range: bytes=600000-\r\nIf-Match: {etag}\r\n"),
            format!("Range: bytes=600000-\r\nIf-Range: {etag}\r\n"),
            format!("Range: bytes=600000-\r\nIf-Unmodified-Since: {modified}\r\n"),
        ] {
            let part = client.get("/files/images/a.img", &fields).await;
            assert_eq!((part.status, &part.body[..]), (206, &image[600_000..]), "{fields}");
            assert_eq!(part.field("content-range"), Some("bytes 600000-1000002/1000003"));
        }
        for (fields, status, content_range) in [
            (format!("If-None-Match: {etag}\r\n"), 304, None),
            ("If-Match: \"other\"\r\n".to_owned(), 412, None),
            ("Range: bytes=1000003-\r\n".to_owned(), 416, Some("bytes */1000003")),
        ] {
            let answer = client.get("/files/images/a.img", &fields).await;
            assert_eq!((answer.status, answer.field("content-range")), (status, content_range));
            assert_eq!(answer.body.is_empty(), status == 304);
        }
        let other = "Range: bytes=5-\r\nIf-Range: \"other\"\r\n";
        assert_eq!(client.get("/files/images/a.img", other).await.body, image);
    });
}

#[test]
fn i6_a_file_that_ends_early_ends_the_connection_and_is_never_filled_up() {
    // More than the kernel's buffers take, so the server is not through when the file shrinks.
    let image = pattern(24 << 20);
    check_files(Limits::default(), &[("images/a.img", &image)], async |address, directory| {
        let mut client = Client::connect(address).await;
        client.send("GET /files/images/a.img HTTP/1.1\r\nConnection: close\r\n\r\n").await;
        // The server has the file open once its answer begins.
        let mut first = [0; 1];
        client.stream.read_exact(&mut first).await.unwrap();
        let hash = sha256_of(&image);
        let path = directory.join("objects").join(&hash[..2]).join(&hash);
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(23 << 20).unwrap();
        let received = client.receive_to_end().await;
        let body = received.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        assert!(received.len() - body < image.len());
        assert!(image.starts_with(&received[body..]));
        let again = Client::connect(address).await.get("/files/images/a.img", "").await;
        assert_eq!(again.status, 404, "the length is no longer what the index says");
    });
}

#[test]
fn a_loader_is_never_answered_503_and_is_sent_when_the_disk_is_gone() {
    // More than the kernel's buffers take, so that a reader is not through.
    let (small, large) = (pattern(300_000), pattern(24 << 20));
    let contents: [(&str, &[u8]); 3] = [
        ("bootloaders/a.efi", &small),
        ("bootloaders/large.efi", &large),
        ("images/a.img", &large[1..]),
    ];
    check_files(Limits::default(), &contents, async |address, directory| {
        // Somebody reads the files that are not in memory.
        let mut readers = Vec::new();
        for target in ["/files/bootloaders/large.efi", "/files/images/a.img"] {
            let mut reader = Client::connect(address).await;
            reader.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            reader.stream.read_exact(&mut [0; 1]).await.unwrap();
            readers.push(reader);
        }
        // The server has filled the kernel's buffers and waits for the readers; who reads on would see that the file is another.
        Timer::after(Duration::from_millis(500)).await;
        for bytes in [&small[..], &large, &large[1..]] {
            let hash = sha256_of(bytes);
            let path = directory.join("objects").join(&hash[..2]).join(&hash);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(0).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
        let mut client = Client::connect(address).await;
        let loader = client.get("/files/bootloaders/a.efi", "").await;
        assert_eq!((loader.status, loader.body == small), (200, true));
        let image = client.get("/files/images/a.img", "").await;
        assert_eq!((image.status, image.field("retry-after")), (503, Some("5")));
        let loader = client.get("/files/bootloaders/large.efi", "").await;
        assert_eq!((loader.status, loader.field("retry-after")), (500, None));
        assert!(!loader.body.is_empty(), "BOOT §5.5");
    });
}

fn sha256_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    crate::cache::ContentHash::from_digest(sha2::Sha256::digest(bytes).into()).to_string()
}

#[test]
fn a_body_comes_whole_at_its_pace() {
    let image = pattern(300_001);
    check_files(Limits::default(), &[("images/a.img", &image)], async |address, _| {
        let mut client = Client::connect(address).await;
        let began = clock::monotonic();
        // The second range on the same connection has its own pace.
        for (fields, from, bytes_per_s) in
            [("", 0, 1_000_000), ("Range: bytes=280000-\r\n", 280_000, 64_000)]
        {
            let target = format!("/files/images/a.img?pace={bytes_per_s}");
            let answer = client.get(&target, fields).await;
            assert!(answer.body == image[from..], "{fields}");
        }
        assert!(began.elapsed() >= Duration::from_millis(290 + 250), "{:?}", began.elapsed());
    });
}

#[test]
fn a_correlation_id_is_taken_or_made() {
    check(Limits::default(), async |address| {
        let mut client = Client::connect(address).await;
        let taken = client.get("/nowhere", "X-Correlation-ID: boot-7\r\n").await;
        assert_eq!(taken.field("x-correlation-id"), Some("boot-7"));
        assert!(taken.text().contains("\"correlation_id\":\"boot-7\""));
        let made = client.get("/script", "X-Correlation-ID: <b>\r\n").await;
        assert_eq!(made.field("x-correlation-id").map(str::len), Some(16));
    });
}

#[test]
fn a_service_knows_which_address_was_reached() {
    check(Limits::default(), async |address| {
        let answer = Client::connect(address).await.get("/local", "").await;
        assert_eq!(answer.text(), format!("true {:?}", Some(address)));
    });
}

#[test]
fn a_unix_socket_is_served_without_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    run(async |executor| {
        let listener = UnixListener::bind(&path).unwrap();
        let server = Rc::clone(&executor);
        let service = Rc::new(TestService { cache: None, body_time: Duration::ZERO });
        let serving = async move {
            serve(&server, listener, Limits::default(), service).await;
        };
        executor.spawn(serving).detach();
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET /local HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nfalse None"), "{answer}");
    });
}

#[test]
fn curl_understands_us() {
    let image = pattern(700_000);
    check_files(Limits::default(), &[("images/a.img", &image)], async |address, _| {
        let url = format!("http://{address}/files/images/a.img");
        for (arguments, expected) in [
            (&["--silent", "--fail"][..], &image[..]),
            (&["--silent", "--fail", "--range", "5-9"], &image[5..10]),
            (&["--silent", "--fail", "--http1.0"], &image[..]),
        ] {
            let mut curl = std::process::Command::new("curl");
            curl.args(arguments).arg(&url);
            match smol::unblock(move || curl.output()).await {
                Ok(output) => assert_eq!(output.stdout, expected, "{arguments:?}"),
                Err(error) => return println!("skipped: there is no curl here ({error})"),
            }
        }
    });
}

mod hostile;
