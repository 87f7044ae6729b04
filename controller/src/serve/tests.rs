//! The accept loop with real sockets, and clients that do not behave.

use std::sync::Arc;

use pureboot_protocol::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::content::tests::content_in;
use crate::router::{App, router};
use crate::store::Store;
use crate::store::testing::database;
use crate::vault::{KEY_LEN, Vault};

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    _dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&database(dir.path()).await).await.expect("a database");
        let content = content_in(dir.path(), &store).await;
        let vault = Vault::new(&[0; KEY_LEN]);
        let app = App::new(store, content, Arc::new(|| Timestamp::from_unix_ms(0)), vault);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, None, router(app), Proxies::default(), async {
            _ = stopped.await;
        }));
        Self { address, stop, task, _dir: dir }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// Sends `request` and returns all that is answered until the connection ends.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that has refused already may close while this is still being written.
        _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn assert_serves(&self) {
        let answer =
            self.exchange(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn h2_h3_h5_h11_a_request_that_is_none_is_refused_and_the_next_one_served() {
    let server = Server::start().await;
    let post = "POST /api/v1/agents/register HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
    for (request, statuses) in [
        (format!("{post}content-length: 9223372036854775807\r\n\r\n"), &["400", "413"][..]),
        (format!("{post}content-length: 18446744073709551616\r\n\r\n"), &["400"]),
        (format!("{post}content-length: 42949672960\r\n\r\n"), &["413"]),
        (format!("{post}content-length: +5\r\n\r\nabcde"), &["400"]),
        (format!("{post}content-length: xyz\r\n\r\n"), &["400"]),
        (format!("{post}content-length: 1\r\ncontent-length: 2\r\n\r\n{{}}"), &["400"]),
        (format!("{post}transfer-encoding: identity\r\n\r\n"), &["400"]),
        (format!("{post}transfer-encoding: xchunked\r\n\r\n"), &["400"]),
        (format!("{post}x: a\r\n folded\r\n\r\n"), &["400"]),
        (format!("{post}x : a\r\n\r\n"), &["400"]),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: ".to_owned()
                + &"a".repeat(40_000),
            &["431"],
        ),
        // hyper knows the preface of HTTP/2 and hangs up.
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[""]),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n".to_owned(), &["400"]),
        ("TRACE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), &["404", "405"]),
        (
            "CONNECT a:1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
            &["400", "404", "405"],
        ),
    ] {
        let answer = server.exchange(request.as_bytes()).await;
        let status = answer.get(9..12).unwrap_or_default();
        let head = request.get(..request.len().min(160)).unwrap_or(&request);
        assert!(statuses.contains(&status), "{head:?}: {answer:?}");
        let answers = answer.matches("HTTP/1.").count();
        assert_eq!(answers, usize::from(!status.is_empty()), "one answer at most: {answer:?}");
        server.assert_serves().await;
    }
}

#[tokio::test]
async fn h6_a_client_that_resets_after_its_request_harms_nobody() {
    let server = Server::start().await;
    for _ in 0..20 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        stream.set_zero_linger().expect("a reset instead of an orderly end");
    }
    server.assert_serves().await;
}

#[tokio::test]
async fn h1_one_address_cannot_take_all_places_and_gets_its_own_back() {
    let places = Places::default();
    let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
    let mut taken: Vec<_> =
        std::iter::from_fn(|| places.take(one, CONNECTIONS_PER_ADDRESS_MAX)).collect();
    assert_eq!(taken.len(), CONNECTIONS_PER_ADDRESS_MAX);
    assert!(places.take(other, CONNECTIONS_PER_ADDRESS_MAX).is_some());
    taken.pop();
    assert!(places.take(one, CONNECTIONS_PER_ADDRESS_MAX).is_some());
    drop(taken);
    let mut all = Vec::new();
    for number in 0..=255 {
        all.extend(std::iter::from_fn(|| {
            places.take(IpAddr::from([198, 51, 100, number]), CONNECTIONS_PER_ADDRESS_MAX)
        }));
    }
    assert_eq!(all.len(), CONNECTIONS_MAX);
    drop(all);
    assert!(places.taken.lock().expect("nobody panicked").is_empty(), "no address is remembered");
}

#[tokio::test]
async fn the_end_waits_for_nobody_who_is_silent() {
    let server = Server::start().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.expect("an answer");
    let mut slow = server.connect().await;
    slow.write_all(b"GET / HT").await.expect("sent");
    server.stop.send(()).expect("it runs");
    server.task.await.expect("it ends");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_request_that_is_under_way_is_answered_before_the_end_and_none_is_taken_after_it() {
    let Server { address, stop, task, _dir } = Server::start().await;
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let head = b"POST /api/v1/session HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.send(()).expect("it serves");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody is let in any more");
    stream.write_all(b"{}").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    task.await.expect("ended");
}
