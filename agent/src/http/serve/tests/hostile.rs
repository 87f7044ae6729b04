//! FAULTS §7: what may arrive, and what must come back.

use super::*;

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[test]
fn h1_the_connection_that_is_one_too_many_is_closed_at_once() {
    let limits = limits(|limits| limits.connections_per_address_max = 3);
    check(limits, async |address| {
        let mut held = vec![];
        for _ in 0..3 {
            let mut client = Client::connect(address).await;
            client.send("GET /script HTTP/1.1\r\n").await;
            held.push(client);
        }
        let mut refused = Client::connect(address).await;
        assert_eq!(refused.receive_to_end().await, b"");
        held[0].send("\r\n").await;
        let answer = held[0].receive(true).await.expect("those inside are not disturbed");
        assert_eq!(answer.status, 200);
        // It asks for nothing any more, so there is a place again.
        assert_serves(address).await;
    });
}

#[test]
fn h1_whoever_is_idle_for_longest_gives_way_to_who_comes() {
    let limits = limits(|limits| {
        limits.connections_max = 3;
        limits.connections_per_address_max = 3;
    });
    check(limits, async |address| {
        let mut held = vec![];
        for _ in 0..3 {
            let mut client = Client::connect(address).await;
            assert_eq!(client.get("/script", "").await.status, 200);
            held.push(client);
        }
        // The first was idle for longest until now.
        assert_eq!(held[0].get("/script", "").await.status, 200);
        assert_serves(address).await;
        assert_eq!(held[1].receive_to_end().await, b"", "closed without a word");
        assert_eq!(held[0].get("/script", "").await.status, 200);
        for _ in 0..20 {
            assert_serves(address).await;
        }
    });
}

#[test]
fn h1_a_head_that_does_not_come_is_answered_408() {
    let limits = limits(|limits| limits.head_time = Duration::from_millis(50));
    check(limits, async |address| {
        for said in ["", "G", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            let answer = last_words(address, said).await.expect("an answer");
            assert_eq!(answer.status, 408, "{said:?}");
        }
        assert_serves(address).await;
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let limits = limits(|limits| {
        limits.head_time = Duration::from_millis(50);
        limits.idle_time = Duration::from_millis(50);
    });
    check(limits, async |address| {
        // The slow answer takes longer than a head may: deadlines of before must not stand for those of after.
        for target in ["/script", "/slow", "/nowhere"] {
            let mut client = Client::connect(address).await;
            assert!(!client.get(target, "").await.body.is_empty());
            assert_eq!(client.receive_to_end().await, b"", "{target}");
        }
    });
}

#[test]
fn h2_a_head_is_cut_at_8_kib() {
    check(Limits::default(), async |address| {
        let fields: String = (0..200).map(|number| format!("X-{number}: a\r\n")).collect();
        let line = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(8_200));
        let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9_000));
        for said in [&line, &target, &format!("GET / HTTP/1.1\r\n{fields}\r\n")] {
            let answer = last_words(address, said).await.expect("an answer");
            assert_eq!(answer.status, 431, "{}", &said[..40]);
            assert!(!answer.body.is_empty());
        }
        let fits = format!("X: {}\r\n", "a".repeat(8_000));
        assert_eq!(Client::connect(address).await.get("/script", &fits).await.status, 200);
    });
}

#[test]
fn h3_an_absurd_length_is_refused() {
    check(Limits::default(), async |address| {
        for (length, status) in [
            ("9223372036854775807", 413),
            ("18446744073709551613", 413),
            ("40000000000", 413),
            ("65", 413),
            ("18446744073709551616", 400),
            ("+5", 400),
            ("xyz", 400),
            ("-1", 400),
            ("5, 5", 400),
            ("5\r\nContent-Length: 6", 400),
        ] {
            let said = format!("POST /echo HTTP/1.1\r\nContent-Length: {length}\r\n\r\nhello");
            let answer = last_words(address, &said).await.expect(length);
            assert_eq!(answer.status, status, "{length:?}");
            assert!(!answer.body.is_empty(), "{length:?}");
        }
        assert_serves(address).await;
    });
}

#[test]
fn who_is_still_sending_when_it_is_refused_gets_the_answer_all_the_same() {
    check(Limits::default(), async |address| {
        let mut client = Client::connect(address).await;
        client.send("POST /echo HTTP/1.1\r\nContent-Length: 500000\r\n\r\n").await;
        for _ in 0..50 {
            client.send([0; 10_000]).await;
            smol::future::yield_now().await;
        }
        assert_eq!(client.receive(true).await.map(|answer| answer.status), Some(413));
    });
}

#[test]
fn h4_a_body_that_does_not_come_is_answered_408() {
    let service = TestService { cache: None, body_time: Duration::from_millis(50) };
    with_server(Limits::default(), service, async |address| {
        let mut waiting = Client::connect(address).await;
        waiting.send("POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel").await;
        assert_serves(address).await;
        let answer = waiting.receive(true).await.expect("an answer");
        assert_eq!(answer.status, 408);
        assert_eq!(waiting.receive_to_end().await, b"");
    });
}

#[test]
fn h12_a_body_that_is_never_continued_is_answered_408() {
    let service = TestService { cache: None, body_time: Duration::from_millis(50) };
    with_server(Limits::default(), service, async |address| {
        let mut client = Client::connect(address).await;
        client
            .send("POST /echo HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .await;
        let received = String::from_utf8(client.receive_to_end().await).unwrap();
        let (first, second) = received.split_once("\r\n\r\n").unwrap();
        assert_eq!(first, "HTTP/1.1 100 Continue");
        assert!(second.starts_with("HTTP/1.1 408 "), "{second}");
    });
}

#[test]
fn a_body_that_comes_in_pieces_is_read_as_a_whole() {
    check(Limits::default(), async |address| {
        let mut client = Client::connect(address).await;
        client.send("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nhello").await;
        client.send("\nworld").await;
        assert_eq!(client.receive(true).await.unwrap().text(), "hello\nworl");
    });
}

#[test]
fn h5_a_request_whose_end_is_open_to_dispute_is_refused() {
    check(Limits::default(), async |address| {
        for said in [
            "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "POST /echo HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
            "POST /echo HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\nhello",
            "POST /echo HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\nhello",
            "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /echo HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
            "GET /script HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
            "GET /script HTTP/1.1\nHost: a\n\n",
            "GET /script HTTP/1.1\r\nHost: a\n\r\n",
            "GET /script HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /script HTTP/1.1\r\nX: \0\r\n\r\n",
        ] {
            // Closed behind the answer: one request in, one response out.
            let answer = last_words(address, said).await.expect(said);
            assert_eq!(answer.status, 400, "{said:?}");
            assert!(!answer.body.is_empty(), "{said:?}");
        }
        assert_serves(address).await;
    });
}

#[test]
fn h6_a_reset_behind_a_request_disturbs_nobody() {
    let image = pattern(4_000_000);
    check_files(Limits::default(), &[("images/a", &image)], async |address, _| {
        for target in ["/script", "/files/images/a", "/nowhere"] {
            let mut client = Client::connect(address).await;
            let socket = socket2::SockRef::from(&client.stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            client.send(format!("GET {target} HTTP/1.1\r\n\r\n")).await;
            drop(client);
        }
        assert_serves(address).await;
    });
}

/// A listener that fails as often as it is told to before each connection.
struct Failing {
    listener: TcpListener,
    errors: Cell<&'static [i32]>,
}

impl Listener for Failing {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Connection)> {
        match self.errors.get().split_first() {
            Some((error, rest)) => {
                self.errors.set(rest);
                Err(io::Error::from_raw_os_error(*error))
            }
            None => Listener::accept(&self.listener).await,
        }
    }
}

#[test]
fn h7_a_listener_outlives_errors_of_accept() {
    run(async |executor| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let errors: &'static [i32] = &[
            nix::libc::ECONNABORTED,
            nix::libc::EMFILE,
            nix::libc::ENFILE,
            nix::libc::ENOBUFS,
            nix::libc::EMFILE,
        ];
        let listener = Failing { listener, errors: Cell::new(errors) };
        let server = Rc::clone(&executor);
        let service = Rc::new(TestService { cache: None, body_time: Duration::ZERO });
        let serving = async move {
            serve(&server, listener, Limits::default(), service).await;
        };
        executor.spawn(serving).detach();
        assert_serves(address).await;
    });
}

#[test]
fn h9_who_does_not_read_loses_the_connection_and_nobody_else_does() {
    let limits = limits(|limits| {
        limits.stall_time = Duration::from_millis(100);
        limits.connections_max = 2;
    });
    // More than the kernel's buffers take.
    let image = pattern(24 << 20);
    check_files(limits, &[("images/a", &image)], async |address, _| {
        let mut idle = vec![];
        for _ in 0..2 {
            let mut client = Client::connect(address).await;
            client.send("GET /files/images/a HTTP/1.1\r\n\r\n").await;
            idle.push(client);
        }
        // Both places are taken until the server gives the idle readers up.
        loop {
            let mut client = Client::connect(address).await;
            _ = client.stream.write_all(b"GET /script HTTP/1.1\r\n\r\n").await;
            match client.receive(true).await {
                Some(answer) => break assert_eq!(answer.status, 200),
                None => _ = Timer::after(Duration::from_millis(5)).await,
            }
        }
        assert!(idle[0].receive_to_end().await.len() < image.len());
    });
}

#[test]
fn h11_what_is_not_http_1_is_refused() {
    check(Limits::default(), async |address| {
        let tls: &[u8] = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\0\0\0\0\r\n\r\n";
        for (said, status) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], 400),
            (tls, 400),
            (b"GET /\r\n", 400),
            (b"GET / HTTP/9.9\r\n\r\n", 400),
            (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 405),
            (b"TRACE / HTTP/1.1\r\n\r\n", 405),
            (b"OPTIONS * HTTP/1.1\r\n\r\n", 405),
            (b"GET http://169.254.169.254/ HTTP/1.1\r\n\r\n", 400),
            (b"GET * HTTP/1.1\r\n\r\n", 400),
        ] {
            let answer = last_words(address, said).await.expect("an answer");
            assert_eq!(answer.status, status, "{}", said.escape_ascii());
            assert!(!answer.body.is_empty());
        }
        assert_serves(address).await;
    });
}

#[test]
fn h11_pipelined_requests_are_answered_in_order() {
    check(Limits::default(), async |address| {
        let mut client = Client::connect(address).await;
        client.send("GET /script HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\n\u{1}\r\n\r\n").await;
        assert_eq!(client.receive(true).await.map(|answer| answer.status), Some(200));
        assert_eq!(client.receive(true).await.map(|answer| answer.status), Some(404));
        let last = client.receive(true).await.expect("an answer to what is no request");
        assert_eq!((last.status, last.body.is_empty()), (400, false));
        assert_eq!(client.receive_to_end().await, b"");
    });
}

#[test]
fn h14_a_path_that_climbs_finds_nothing() {
    check_files(Limits::default(), &[("images/a", b"x")], async |address, directory| {
        std::fs::write(directory.join("secret"), "s").unwrap();
        let mut client = Client::connect(address).await;
        for target in [
            "/files/images/../../secret",
            "/files/../secret",
            "/files/images/%2e%2e/%2e%2e/secret",
            "/files/images%2fa",
            "/files/images/a%00",
            "/files/images/a;b",
            "/files/images/%252e",
            "/files/images/..%5csecret",
            "/files/images",
            "/files/",
        ] {
            let answer = client.get(target, "").await;
            assert_eq!(answer.status, 404, "{target}");
            assert!(!answer.body.is_empty(), "{target}");
        }
        assert_eq!(client.get("/files/images/a", "").await.status, 200);
    });
}
