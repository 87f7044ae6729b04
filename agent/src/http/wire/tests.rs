//! What the wire asks of its socket.

use std::cell::{Cell, RefCell};

use hyper::body::Buf as _;

use super::*;
use crate::cache::Lent;
use crate::http::loan::Piece;

/// A socket in which bytes arrive when a test says so.
#[derive(Default)]
struct Socket {
    /// What a read would give; none: it would have to wait.
    arrived: Option<Vec<u8>>,
    reads: usize,
    waits: Cell<usize>,
    /// What was written, and what was written ahead of something lent.
    written: Vec<u8>,
    ahead: RefCell<Vec<u8>>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.reads += 1;
        let Some(arrived) = self.arrived.take() else { return Poll::Pending };
        let len = arrived.len().min(buffer.len());
        buffer[..len].copy_from_slice(&arrived[..len]);
        let rest = arrived[len..].to_vec();
        self.arrived = (!rest.is_empty()).then_some(rest);
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Sink for Socket {
    fn poll_send(&self, _: &mut Lent, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        panic!("nothing is lent here")
    }

    fn poll_write_ahead(
        &self,
        slices: &[io::IoSlice<'_>],
        _: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        self.ahead.borrow_mut().extend_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waits.set(self.waits.get() + 1);
        if self.arrived.is_some() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// What a read of up to eight bytes gives; none if it has to wait.
fn read(wire: &mut Wire<Socket>) -> Option<Vec<u8>> {
    let mut buffer = [0; 8];
    match Pin::new(wire).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
        Poll::Ready(len) => Some(buffer[..len.expect("no error")].to_vec()),
        Poll::Pending => None,
    }
}

fn counts(wire: &Wire<Socket>) -> (usize, usize) {
    (wire.stream.reads, wire.stream.waits.get())
}

#[test]
fn a_socket_whose_bytes_have_all_been_read_is_waited_for_and_not_read_in_vain() {
    let mut wire = Wire::new(Socket::default(), Exchange::new(Limits::default()));
    wire.stream.arrived = Some(b"GET".to_vec());
    assert_eq!(read(&mut wire).as_deref(), Some(&b"GET"[..]));
    assert_eq!(read(&mut wire), None);
    assert_eq!(counts(&wire), (1, 1));
    wire.stream.arrived = Some(b" /a".to_vec());
    assert_eq!(read(&mut wire).as_deref(), Some(&b" /a"[..]));
    assert_eq!(counts(&wire), (2, 2));
    wire.stream.arrived = Some(Vec::new());
    assert_eq!(read(&mut wire).as_deref(), Some(&b""[..]), "the end is seen");
}

#[test]
fn a_read_that_fills_its_buffer_is_followed_by_another_at_once() {
    let mut wire = Wire::new(Socket::default(), Exchange::new(Limits::default()));
    wire.stream.arrived = Some(b"GET /abcdef".to_vec());
    assert_eq!(read(&mut wire).as_deref(), Some(&b"GET /abc"[..]));
    assert_eq!(read(&mut wire).as_deref(), Some(&b"def"[..]));
    assert_eq!(counts(&wire), (2, 0));
}

#[test]
fn a_head_leaves_with_what_is_lent_behind_it_and_at_once_where_nothing_is() {
    let mut wire = Wire::new(Socket::default(), Exchange::new(Limits::default()));
    wire.exchange.borrow_mut().handle_request(false);
    let lent = Piece::StandIn(100_000);
    for (body, waits) in [(b"body".as_slice(), false), (lent.chunk(), true)] {
        let slices = [io::IoSlice::new(b"head "), io::IoSlice::new(body)];
        let written = Pin::new(&mut wire)
            .poll_write_vectored(&mut Context::from_waker(Waker::noop()), &slices);
        assert!(matches!(written, Poll::Ready(Ok(1..))), "{written:?}");
        assert_eq!(*wire.stream.ahead.borrow() == b"head ", waits);
    }
    assert!(wire.stream.written.starts_with(b"head "), "nothing was lent");
    assert!(!wire.stream.written.contains(&b'?'), "a stand-in was written");
}
