//! Answers that are none: nothing of them is an acknowledgement, whatever else they are (FAULTS §5).

use super::*;

/// How many bytes a server that is called by mistake would have heard.
async fn overhear(listener: TcpListener, heard: Rc<Cell<usize>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut buffer = [0; 4_096];
        while let Ok(len @ 1..) = stream.read(&mut buffer).await {
            heard.set(heard.get() + len);
        }
    }
}

/// Reads a request's head and answers `raw`, whatever comes behind it; then the connection ends.
async fn answer_raw(listener: TcpListener, raw: Vec<u8>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4_096]);
        while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(len @ 1..) => seen.extend_from_slice(&buffer[..len]),
                _ => return,
            }
        }
        // The client may have had enough of it.
        _ = stream.write_all(&raw).await;
        _ = stream.close().await;
    }
}

/// What a delivery comes to where the controller answers `raw`.
fn outcome(raw: Vec<u8>) -> Result<ChangeReceipt, CallError> {
    let executor = Rc::new(LocalExecutor::new());
    block_on(executor.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let _serving = executor.spawn(answer_raw(listener, raw));
        let tls = tls::connector(None).expect("the web's authorities");
        let controller = Controller::new(Rc::clone(&executor), url.parse().expect("a URL"), tls);
        controller.deliver(&batch(1)).await
    }))
}

fn receipt() -> String {
    let batch = batch(1);
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

/// An answer with this head, the length of its body, and the body.
fn whole(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn check(cases: Vec<(&str, Vec<u8>)>) {
    for (name, raw) in cases {
        let outcome = outcome(raw);
        assert!(outcome.is_err(), "{name}: {outcome:?}");
    }
}

#[test]
fn what_is_a_receipt_is_taken_for_one() {
    // Without this the tests below could pass for any reason.
    assert!(outcome(whole("200 OK", &receipt()).into_bytes()).is_ok());
}

#[test]
fn c3_n5_what_is_cut_or_contradicts_itself_is_no_acknowledgement() {
    let (receipt, len) = (receipt(), receipt().len());
    let half = &receipt[..len / 2];
    let chunk = format!("{len:x}\r\n{receipt}\r\n");
    let text = |text: String| text.into_bytes();
    check(vec![
        ("nothing", Vec::new()),
        ("garbage", b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n".to_vec()),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        ("half the JSON", text(whole("200 OK", half))),
        ("an empty body", text(whole("200 OK", ""))),
        (
            "less than was said",
            text(format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{half}")),
        ),
        (
            "more than was said",
            text(format!("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{receipt}")),
        ),
        ("no length", text(format!("HTTP/1.1 200 OK\r\n\r\n{receipt}"))),
        (
            "two lengths",
            text(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\ncontent-length: 5\r\n\r\n{receipt}"
            )),
        ),
        (
            "no last chunk",
            text(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")),
        ),
        ("a hint and no answer", b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec()),
        (
            "a field twice",
            text(whole("200 OK", &receipt.replacen('{', "{\"acked_through\":1,", 1))),
        ),
        ("503 with a receipt", text(whole("503 Service Unavailable", &receipt))),
    ]);
}

#[test]
fn c5_c6_what_is_too_much_is_given_up_at_the_bound() {
    let long = format!("{}{}", receipt(), " ".repeat(crate::exchange::ANSWER_LEN_MAX));
    let deep = "[".repeat(100_000);
    let huge =
        receipt().replace("\"acked_through\":1", &format!("\"acked_through\":{}", "9".repeat(400)));
    let mut broken = whole("200 OK", &receipt()).into_bytes();
    *broken.last_mut().expect("a byte") = 0xff;
    let flood = format!("200 OK\r\nx: {}", "y".repeat(64 << 10));
    let many = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    check(vec![
        ("1 MiB and more", whole("200 OK", &long).into_bytes()),
        ("100,000 deep", whole("200 OK", &deep).into_bytes()),
        ("a number of 400 digits", whole("200 OK", &huge).into_bytes()),
        ("no UTF-8", broken),
        ("a long field", whole(&flood, &receipt()).into_bytes()),
        ("many fields", whole(&format!("200 OK\r\n{}", many.trim_end()), &receipt()).into_bytes()),
    ]);
}

#[test]
fn c7_no_redirect_is_followed_and_no_token_goes_elsewhere() {
    for head in
        ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let executor = Rc::new(LocalExecutor::new());
        let heard = Rc::new(Cell::new(0));
        let outcome = block_on(executor.run(async {
            let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let target = elsewhere.local_addr().expect("an address");
            let _overhearing = executor.spawn(overhear(elsewhere, Rc::clone(&heard)));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            let raw =
                whole(&format!("{head}\r\nlocation: http://{target}/api/v1/agents/changes"), "");
            let _serving = executor.spawn(answer_raw(listener, raw.into_bytes()));
            let tls = tls::connector(None).expect("the web's authorities");
            let controller =
                Controller::new(Rc::clone(&executor), url.parse().expect("a URL"), tls);
            controller.authenticate(Secret::from_random([7; 32]));
            controller.deliver(&batch(1)).await
        }));
        assert!(outcome.is_err(), "{head}: {outcome:?}");
        assert_eq!(heard.get(), 0, "{head}");
    }
}

/// Connections to `port` of this machine that are open at the caller's end (proc_pid_net(5)).
fn open_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
    let peer = format!("0100007F:{port:04X}");
    let is_open = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(peer.as_str()) && words.next() == Some("01")
    };
    table.lines().filter(is_open).count()
}

#[test]
fn n3_a_handshake_that_is_never_answered_ends_in_its_time_and_leaves_nothing() {
    let executor = Rc::new(LocalExecutor::new());
    block_on(executor.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        // Nobody accepts: the system does, and keeps what is sent.
        let address = listener.local_addr().expect("an address");
        let url = format!("https://{address}").parse().expect("a URL");
        let tls = tls::connector(None).expect("the web's authorities");
        let controller = Controller::new(Rc::clone(&executor), url, tls);
        for _ in 0..50 {
            assert!(controller.look(Duration::from_millis(20)).await.is_err());
        }
        assert_eq!(open_to(address.port()), 0);
        let held = TcpStream::connect(address).await.expect("a connection");
        assert_eq!(open_to(address.port()), 1, "the table is read rightly");
        drop(held);
    }));
}
