//! A server in the test's own thread, and a client that says exactly what a test wants said.
#![expect(clippy::disallowed_methods, reason = "test: runs the executor")]

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};
use smol::{LocalExecutor, Timer};

use super::{Limits, Service, serve};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` beside a server on loopback.
pub(crate) fn with_server<S: Service + 'static>(
    limits: Limits,
    service: S,
    test: impl AsyncFnOnce(SocketAddr),
) {
    run(async |executor| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("a bound socket has an address");
        let server = Rc::clone(&executor);
        let service = Rc::new(service);
        executor.spawn(async move { serve(&server, listener, limits, service).await }).detach();
        test(address).await;
    });
}

/// Runs `test` on an executor of its own.
pub(crate) fn run(test: impl AsyncFnOnce(Rc<LocalExecutor<'static>>)) {
    let executor = Rc::new(LocalExecutor::new());
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("the test waited for {PATIENCE:?}");
    };
    smol::block_on(executor.run(test(Rc::clone(&executor)).or(late)));
}

/// One answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("the server listens") }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the server takes bytes");
    }

    /// The next answer; none if the connection ends before its first byte. It ends the test if it has no length.
    pub(crate) async fn receive(&mut self, has_body: bool) -> Option<Answer> {
        let mut head = vec![];
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match self.stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                end => {
                    assert!(head.is_empty(), "{end:?} in the head {head:?}");
                    return None;
                }
            }
        }
        let head = String::from_utf8(head).expect("a head is ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let fields = lines.filter_map(|line| line.split_once(": "));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut answer = Answer { status: status.parse().unwrap(), fields, body: vec![] };
        // BOOT §5.1.
        assert_eq!(answer.field("transfer-encoding"), None, "{head}");
        if answer.status != 304 {
            let len = answer.field("content-length").expect("a length, always");
            answer.body = vec![0; if has_body { len.parse().unwrap() } else { 0 }];
            self.stream.read_exact(&mut answer.body).await.expect("the whole body");
        }
        Some(answer)
    }

    /// Everything until the server closes.
    pub(crate) async fn receive_to_end(&mut self) -> Vec<u8> {
        let mut bytes = vec![];
        // A reset is an end, too.
        _ = self.stream.read_to_end(&mut bytes).await;
        bytes
    }

    pub(crate) async fn get(&mut self, target: &str, fields: &str) -> Answer {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        self.receive(true).await.expect("an answer")
    }
}

/// The one answer to the one thing said on a connection, which the server closes then.
pub(crate) async fn last_words(address: SocketAddr, said: impl AsRef<[u8]>) -> Option<Answer> {
    let mut client = Client::connect(address).await;
    client.send(said).await;
    let answer = client.receive(true).await;
    assert_eq!(client.receive_to_end().await, b"", "the connection is closed behind {answer:?}");
    answer
}
