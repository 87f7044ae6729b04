//! What the wire asks of its socket.

use std::cell::Cell;

use super::*;
use crate::cache::Lent;

/// A socket in which bytes arrive when a test says so.
#[derive(Default)]
struct Socket {
    /// What a read would give; none: it would have to wait.
    arrived: Option<Vec<u8>>,
    reads: usize,
    waits: Cell<usize>,
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

impl Sink for Socket {
    fn poll_send(&self, _: &mut Lent, _: &mut Context<'_>) -> Poll<io::Result<usize>> {
        panic!("nothing is lent here")
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
