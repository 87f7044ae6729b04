//! How bytes get from a file to a socket past hyper, which keeps what it is good at: heads, lengths, keep-alive, order.
//!
//! hyper counts the bytes of a body and hands them to the wire, it does not look at them. So for a [`Lent`] part of a file it is given a
//! [`Piece`] of the same length whose slices are all the same few bytes of a static, the stand-in; what is really to be sent waits in
//! the connection's [`Loans`]. The wire knows the stand-in by its address and has the kernel send the file in its place. The
//! stand-in itself never reaches a socket: the wire writes nothing that begins at its address, and a loan that has not been sent when hyper is
//! done ends the connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Buf, Bytes};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use smol::Async;
use smol::net::TcpStream;
use smol::net::unix::UnixStream;

use crate::cache::Lent;

/// What hyper sees of a loan, again and again. hyper takes up to 64 slices at once, so that as much is sent in one call.
static STAND_IN: [u8; 32 << 10] = [b'?'; 32 << 10];

/// What a body gives next.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes that the kernel has.
    Lent(Lent),
}

impl Chunk {
    /// How many bytes it is.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Lent(lent) => lent.len(),
        }
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first bytes off, at most `len_max`.
    pub(super) fn split_to(&mut self, len_max: usize) -> Self {
        match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.split_to(bytes.len().min(len_max))),
            Self::Lent(lent) => Self::Lent(lent.split_to(len_max)),
        }
    }
}

/// A part of a body as hyper has it.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    /// So many bytes of the loans of the connection.
    StandIn(usize),
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::StandIn(len) => *len,
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::StandIn(len) => STAND_IN.get(..*len).unwrap_or(&STAND_IN),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let len = match self {
            Self::Bytes(bytes) => return bytes.chunks_vectored(slices),
            Self::StandIn(len) => *len,
        };
        let (mut left, mut count) = (len, 0);
        for slice in slices {
            if left == 0 {
                break;
            }
            let part = STAND_IN.get(..left).unwrap_or(&STAND_IN);
            *slice = IoSlice::new(part);
            left -= part.len();
            count += 1;
        }
        count
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::StandIn(len) => *len = len.saturating_sub(count),
        }
    }
}

/// Whether a slice stands for a loan.
pub(super) fn is_stand_in(slice: &[u8]) -> bool {
    std::ptr::eq(slice.as_ptr(), STAND_IN.as_ptr())
}

/// What one connection has yet to send of files, in order.
#[derive(Debug, Default)]
pub(super) struct Loans(VecDeque<Lent>);

impl Loans {
    /// What hyper is given for a chunk.
    pub(super) fn exchange(&mut self, chunk: Chunk) -> Piece {
        match chunk {
            Chunk::Bytes(bytes) => Piece::Bytes(bytes),
            Chunk::Lent(lent) => {
                let len = lent.len();
                self.0.push_back(lent);
                Piece::StandIn(len)
            }
        }
    }

    /// Whether all have been sent.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends on.
    pub(super) fn poll_send(
        &mut self,
        stream: &impl Sink,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(lent) = self.0.front_mut() else {
            return Poll::Ready(Err(io::Error::other("a stand-in without what it stands for")));
        };
        let sent = ready!(stream.poll_send(lent, context));
        if lent.is_empty() {
            self.0.pop_front();
        }
        Poll::Ready(sent)
    }
}

/// What a connection's socket can do besides reading and writing bytes.
pub trait Sink {
    /// Sends on of what is lent, as much as there is room for.
    fn poll_send(&self, lent: &mut Lent, context: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Writes bytes that something lent follows at once, so that the kernel lets them leave together.
    fn poll_write_ahead(
        &self,
        slices: &[IoSlice<'_>],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;

    /// Waits until there is something to read, or the end.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Sink for TcpStream {
    fn poll_send(&self, lent: &mut Lent, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_send(&Arc::<Async<_>>::from(self.clone()), lent, context)
    }

    fn poll_write_ahead(
        &self,
        slices: &[IoSlice<'_>],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        poll_write_ahead(&Arc::<Async<_>>::from(self.clone()), slices, context)
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Arc::<Async<_>>::from(self.clone()).poll_readable(context)
    }
}

impl Sink for UnixStream {
    fn poll_send(&self, lent: &mut Lent, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_send(&Arc::<Async<_>>::from(self.clone()), lent, context)
    }

    fn poll_write_ahead(
        &self,
        slices: &[IoSlice<'_>],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        poll_write_ahead(&Arc::<Async<_>>::from(self.clone()), slices, context)
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Arc::<Async<_>>::from(self.clone()).poll_readable(context)
    }
}

fn poll_send(
    socket: &Async<impl AsFd>,
    lent: &mut Lent,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        match lent.send_to(socket.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(socket.poll_writable(context))?;
            }
            sent => return Poll::Ready(sent),
        }
    }
}

fn poll_write_ahead(
    socket: &Async<impl AsFd>,
    slices: &[IoSlice<'_>],
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut nothing = SendAncillaryBuffer::default();
        match sendmsg(socket.get_ref(), slices, &mut nothing, SendFlags::MORE | SendFlags::NOSIGNAL)
        {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ready!(socket.poll_writable(context))?,
            written => return Poll::Ready(Ok(written?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_as_long_as_what_it_stands_for_and_known_in_every_slice() {
        for len in [0, 1, STAND_IN.len(), STAND_IN.len() + 1, 5 * STAND_IN.len() - 1] {
            let mut piece = Piece::StandIn(len);
            let mut slices = [IoSlice::new(b""); 8];
            let count = piece.chunks_vectored(&mut slices);
            let seen: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            assert_eq!(seen, len);
            assert!(slices[..count].iter().all(|slice| is_stand_in(slice)), "{len}");
            piece.advance(len / 2);
            assert_eq!(piece.remaining(), len - len / 2);
            assert!(piece.remaining() == 0 || is_stand_in(piece.chunk()));
        }
    }

    #[test]
    fn what_is_in_memory_stands_for_itself() {
        let mut loans = Loans::default();
        let mut piece = loans.exchange(Chunk::Bytes(Bytes::from_static(b"content")));
        assert!(loans.is_empty());
        piece.advance(3);
        assert_eq!(piece.chunk(), b"tent");
        assert!(!is_stand_in(piece.chunk()));
    }
}
