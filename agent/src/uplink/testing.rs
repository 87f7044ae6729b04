//! A controller that says what a test has it say.
#![expect(clippy::disallowed_methods, reason = "shell: a server of its own for a test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use pureboot_protocol::{
    BootRecord, Mac, NodeRecords, PublicKey, Signature, SignedRecords, SiteId, Success, Timestamp,
    Told,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use smol::LocalExecutor;

use crate::uplink::controller::{Controller, Trust};
use crate::uplink::tls;

/// A server on loopback.
pub(crate) struct Centre {
    port: u16,
    heard: Receiver<String>,
}

impl Centre {
    /// Answers one request after another with `answers`, each a status and a body; the rest is left without answer.
    pub(crate) fn start(answers: Vec<(u16, String)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, heard) = mpsc::channel();
        thread::spawn(move || {
            for (status, body) in answers {
                let Ok((stream, _)) = listener.accept() else { return };
                _ = sender.send(answer(stream, status, &body));
            }
        });
        Self { port, heard }
    }

    /// A client that calls it.
    pub(crate) fn client(&self, executor: &Rc<LocalExecutor<'static>>) -> Controller {
        let url = format!("http://127.0.0.1:{}", self.port).parse().expect("a URL");
        let tls = tls::connector(None).expect("a connector");
        let controller = Controller::new(Rc::clone(executor), url, tls);
        controller.trust(Trust { site_id: site(), key: key(&signer(KEY)) });
        controller
    }

    /// The requests so far, head and body.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.try_iter().collect()
    }
}

/// The seed of the key that the client has pinned.
pub(crate) const KEY: u8 = 1;

/// The client's site.
pub(crate) fn site() -> SiteId {
    SiteId::from_random([2; 16])
}

fn signer(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed")
}

fn key(signer: &Ed25519KeyPair) -> PublicKey {
    PublicKey::from_bytes(signer.public_key().as_ref().try_into().expect("32 bytes"))
}

/// What a controller says to `site` of its nodes, signed by the key that `seed` makes.
pub(crate) fn signed(told: Told, site_id: SiteId, seed: u8) -> String {
    let issued_at = Timestamp::from_unix_ms(0);
    let payload = serde_json::to_string(&NodeRecords { site_id, issued_at, told }).expect("JSON");
    let signer = signer(seed);
    let signature = signer.sign(&SignedRecords::signed_bytes(&payload));
    let signature = Signature::from_bytes(signature.as_ref().try_into().expect("64 bytes"));
    let signed = SignedRecords::new(payload, signature, &key(&signer));
    serde_json::to_string(&Success::new(signed)).expect("JSON")
}

/// What the controller says of the node with `mac_address`.
pub(crate) fn about(mac_address: Mac, record: Option<BootRecord>) -> String {
    let record = record.map(Box::new);
    signed(Told::Node { mac_address, record, foreign: None, version: 0 }, site(), KEY)
}

/// Reads a request to its end, answers it, and returns it.
fn answer(mut stream: TcpStream, status: u16, body: &str) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    let is_whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        body.len() >= length.map_or(0, |length| length.parse().expect("a length"))
    };
    while !is_whole(&request) {
        let len = stream.read(&mut buffer).expect("a request");
        assert!(len > 0, "a request that breaks off");
        request.extend_from_slice(&buffer[..len]);
    }
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n");
    let length = body.len();
    let answer = format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).expect("answered");
    String::from_utf8(request).expect("text")
}
