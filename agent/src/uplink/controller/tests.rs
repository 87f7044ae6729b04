//! How calls look on the line, to a controller that is written here.

mod hostile;

use std::io::Read as _;

use flate2::read::GzDecoder;
use pureboot_protocol::{
    ChainHash, Change, ChangeId, ChangePayload, ClockQuality, Epoch, NodeEvent, NodeEventKind,
    NodeId, Timestamp,
};
use smol::future::block_on;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use smol::net::TcpListener;

use super::*;
use crate::uplink::tls;

/// A request as it came.
struct Seen {
    head: String,
    body: Vec<u8>,
}

impl Seen {
    fn is_gzip(&self) -> bool {
        self.head.contains("content-encoding: gzip\r\n")
    }
}

fn batch(changes: u64) -> ChangeBatch {
    let change = |seq: u64| Change {
        seq,
        id: ChangeId::from_bytes(u128::from(seq).to_be_bytes()),
        node: NodeId::from_random([1; 16]),
        base_version: None,
        prev_seq_same_node: None,
        at: Timestamp::from_unix_ms(0),
        clock: ClockQuality::Synced,
        session: None,
        payload: ChangePayload::Event(NodeEvent::new(NodeEventKind::BootStarted)),
    };
    ChangeBatch {
        nonce: ChangeId::from_bytes([2; 16]),
        epoch: Epoch::from_bytes([7; 16]),
        instance: None,
        prev_hash: Some(ChainHash::GENESIS),
        first_seq: 1,
        low_water: Some(1),
        items: (1..=changes).map(change).collect(),
    }
}

/// Reads one request; `bytes` holds what has come already, and nothing afterwards. None at the end of the connection.
async fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        let mut more = [0; 4_096];
        match stream.read(&mut more).await {
            Ok(0) | Err(_) => return None,
            Ok(len) => bytes.extend_from_slice(&more[..len]),
        }
    };
    let head = String::from_utf8(bytes[..head_len].to_vec()).expect("a head is ASCII");
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    let mut body = bytes.split_off(head_len);
    let have = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[have..]).await.expect("a body");
    bytes.clear();
    Some(Seen { head, body })
}

/// A receipt as JSON.
fn receipt() -> String {
    let batch = batch(0);
    let receipt = ChangeReceipt {
        nonce: batch.nonce,
        epoch: batch.epoch,
        acked_through: 1,
        hash: ChainHash::GENESIS,
        results: Vec::new(),
        takes: None,
    };
    serde_json::to_string(&receipt).expect("JSON")
}

/// Answers every request on one connection: 415 to gzip if `is_old`, else with a receipt.
async fn serve(listener: TcpListener, is_old: bool, seen: Rc<RefCell<Vec<Seen>>>) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut bytes = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut bytes).await {
        let (status, answer) = if is_old && request.is_gzip() {
            let problem = r#"{"type":"about:blank","title":"","status":415,"detail":"no","code":"unsupported_media_type","correlation_id":"c"}"#;
            ("415 Unsupported Media Type", problem.to_owned())
        } else {
            ("200 OK", receipt())
        };
        seen.borrow_mut().push(request);
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
    }
}

/// What the agent makes of an answer after which the connection ends.
fn answered(answers: Vec<Vec<u8>>) -> Vec<Result<ChangeReceipt, CallError>> {
    let executor = Rc::new(LocalExecutor::new());
    let count = answers.len();
    block_on(executor.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let _serving = executor.spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                read_request(&mut stream, &mut Vec::new()).await.expect("a request");
                stream.write_all(&answer).await.expect("the client reads");
            }
        });
        let tls = tls::connector(None).expect("the web's authorities");
        let controller = Controller::new(Rc::clone(&executor), url.parse().expect("a URL"), tls);
        let mut outcomes = Vec::new();
        for _ in 0..count {
            outcomes.push(controller.deliver(&batch(1)).await);
        }
        outcomes
    }))
}

#[test]
fn n5_an_answer_that_is_cut_anywhere_is_no_acknowledgement() {
    let receipt = receipt();
    let len = receipt.len();
    let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{receipt}");
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{len:x}\r\n{receipt}\r\n0\r\n\r\n"
    );
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{receipt}");
    for (answer, whole_from) in
        [(&whole, whole.len()), (&chunked, chunked.len() - 2), (&endless, endless.len() + 1)]
    {
        let cuts = (0..=answer.len()).map(|cut| answer.as_bytes()[..cut].to_vec()).collect();
        for (cut, outcome) in answered(cuts).into_iter().enumerate() {
            assert!(outcome.is_err() || cut >= whole_from, "cut after {:?}", &answer[..cut]);
            assert!(outcome.is_ok() || cut < answer.len() || whole_from > cut, "{outcome:?}");
        }
    }
}

/// What a controller sees of deliveries of so many changes each.
fn deliver(deliveries: &[u64], is_old: bool) -> Vec<Seen> {
    let executor = Rc::new(LocalExecutor::new());
    let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
    block_on(executor.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let _serving = executor.spawn(serve(listener, is_old, Rc::clone(&seen)));
        let tls = tls::connector(None).expect("the web's authorities");
        let controller = Controller::new(Rc::clone(&executor), url.parse().expect("a URL"), tls);
        for changes in deliveries {
            controller.deliver(&batch(*changes)).await.expect("a receipt");
        }
    }));
    seen.take()
}

#[test]
fn a_batch_that_is_worth_it_goes_in_gzip_and_a_small_one_as_it_is() {
    let seen = deliver(&[1, 100], false);
    let [small, large] = &seen[..] else { panic!("two requests") };
    assert!(!small.is_gzip());
    assert_eq!(small.body, json(&batch(1)));
    assert!(large.is_gzip());
    let mut plain = Vec::new();
    GzDecoder::new(&large.body[..]).read_to_end(&mut plain).expect("gzip");
    assert_eq!(plain, json(&batch(100)));
    assert!(large.body.len() * 5 < plain.len(), "{} of {}", large.body.len(), plain.len());
}

#[test]
fn a_controller_that_takes_no_gzip_is_asked_once_and_gets_every_batch_as_it_is() {
    let seen = deliver(&[100, 100], true);
    let is_gzip: Vec<_> = seen.iter().map(Seen::is_gzip).collect();
    assert_eq!(is_gzip, [true, false, false]);
    assert!(seen[1..].iter().all(|request| request.body == json(&batch(100))));
}

#[test]
fn c18_the_agent_asks_for_no_compression() {
    for request in deliver(&[1, 100], false) {
        assert!(!request.head.contains("accept-encoding"), "{}", request.head);
    }
}
