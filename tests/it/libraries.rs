//! Why the programs use hyper: the faults of the small libraries that the design began with (DESIGN §6), reproduced. When one
//! of these trials fails, a library has been mended and the decision may be looked at again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pureboot_tests::http::{exchange, statuses};
use pureboot_tests::process::Program;

use crate::{Case, case};

/// The environment variable that makes this program a tiny_http server and nothing else.
pub(crate) const SERVE: &str = "PUREBOOT_TESTS_SERVE_TINY_HTTP";

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(tiny_http_dies_of_one_absurd_length),
        case!(minreq_takes_a_truncated_answer_for_success),
    ]
}

/// Answers every request with tiny_http as its documentation shows; ends when its parent kills it.
pub(crate) fn serve() {
    let server = tiny_http::Server::http("127.0.0.1:0").expect("a free port on loopback");
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", server.server_addr()).expect("the parent reads");
    for mut request in server.incoming_requests() {
        // What a server does that wants the body.
        _ = request.as_reader().read(&mut [0; 16]);
        _ = request.respond(tiny_http::Response::from_string("alive"));
    }
}

fn tiny_http_dies_of_one_absurd_length() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.env(SERVE, "1");
    let mut server = Program::spawn("tiny_http", command, dir.path())?;
    let address: SocketAddr = server.line("listening on ", LIMIT)?.parse()?;
    let honest = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (received, _) = exchange(address, honest, LIMIT)?;
    ensure!(statuses(&received) == [200], "it does not even serve an honest request");
    let absurd = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000000\r\n\r\n";
    exchange(address, absurd, Duration::from_secs(2))?;
    server.wait(LIMIT).context("tiny_http survived")?;
    Ok(())
}

fn minreq_takes_a_truncated_answer_for_success() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", listener.local_addr()?);
    let server = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        _ = stream.read(&mut [0; 1_000])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
    });
    let answer = minreq::get(url).with_timeout(10).send();
    ensure!(matches!(server.join(), Ok(Ok(()))), "the server failed");
    let body = answer.context("minreq refused the truncated answer")?.into_bytes();
    ensure!(body == b"only this", "another body: {body:?}");
    Ok(())
}
