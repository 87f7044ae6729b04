//! The stream between hyper and the socket: it sees to deadlines, and to what hyper says of its own.
//!
//! hyper answers a head that it cannot parse by itself, and without a body, which shim waits for for ever (BOOT §5.5). Such an
//! answer is written while nothing of the service is on its way ([`Patience::is_quiet`]), so the wire swallows it, and the
//! connection's task writes a whole one in its place.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use smol::Timer;
use smol::io::{AsyncRead, AsyncWrite};

use crate::clock;

use super::Limits;
use super::head::{HeadScan, Refusal};
use super::limits::Guest;
use super::loan::{Loans, Sink, is_stand_in};
use super::patience::Patience;

/// What the wire and the service's side of one connection both know.
pub(super) struct Exchange {
    pub(super) patience: Patience,
    /// What the kernel is to send of files in place of stand-ins.
    pub(super) loans: Loans,
    scan: HeadScan,
    /// Whether heads are looked at; after a request with a body it is no longer certain where the next one begins.
    is_scanning: bool,
    /// Why the wire ended the connection, if the peer is to be told.
    pub(super) refusal: Option<Refusal>,
    /// Whether an idle peer has had to make room for another.
    pub(super) is_dismissed: bool,
    /// The connection's task.
    waker: Option<Waker>,
}

impl Guest for Rc<RefCell<Exchange>> {
    fn idle_until(&self) -> Option<Instant> {
        self.borrow().patience.idle_until()
    }
}

impl Exchange {
    pub(super) fn new(limits: Limits) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            patience: Patience::new(limits, clock::monotonic()),
            loans: Loans::default(),
            scan: HeadScan::default(),
            is_scanning: true,
            refusal: None,
            is_dismissed: false,
            waker: None,
        }))
    }

    /// The service gets a request.
    pub(super) fn handle_request(&mut self, has_body: bool) {
        self.patience.handle_request();
        self.is_scanning &= !has_body;
        self.scan.restart();
    }

    /// Has the wire end the connection, in which nothing is under way.
    pub(super) fn dismiss(&mut self) {
        self.is_dismissed = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn note_waker(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    fn handle_input(&mut self, bytes: &[u8]) -> io::Result<()> {
        let scanned = if self.is_scanning && self.patience.is_quiet() {
            self.scan.feed(bytes)
        } else {
            Ok(())
        };
        self.patience.handle_input(clock::monotonic());
        scanned.map_err(|refusal| {
            self.refusal = Some(refusal);
            io::Error::new(io::ErrorKind::InvalidData, refusal)
        })
    }

    fn handle_deadline(&mut self) -> io::Error {
        if self.patience.awaits_head() {
            self.refusal = Some(Refusal::HeadTooLate);
        }
        io::ErrorKind::TimedOut.into()
    }
}

/// The socket as hyper sees it.
pub(super) struct Wire<T> {
    stream: T,
    exchange: Rc<RefCell<Exchange>>,
    timer: Timer,
    /// When `timer` fires. It is not moved with every deadline: one that fires early is set again.
    armed: Option<Instant>,
    /// Whether the last read took all there was, so that another one would only be told to wait.
    is_drained: bool,
}

impl<T> Wire<T> {
    pub(super) fn new(stream: T, exchange: Rc<RefCell<Exchange>>) -> Self {
        Self { stream, exchange, timer: Timer::never(), armed: None, is_drained: false }
    }

    /// Ready when the peer has been waited for long enough.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let Some(deadline) = self.exchange.borrow().patience.deadline() else {
                return Poll::Pending;
            };
            if self.armed.is_none_or(|armed| armed > deadline) {
                self.timer.set_at(deadline);
                self.armed = Some(deadline);
            }
            ready!(Pin::new(&mut self.timer).poll(context));
            self.armed = None;
            if clock::monotonic() >= deadline {
                return Poll::Ready(self.exchange.borrow_mut().handle_deadline());
            }
        }
    }

    /// What a write came to.
    fn written(
        &mut self,
        result: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(len)) => {
                self.exchange.borrow_mut().patience.handle_output(len);
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.exchange.borrow_mut().patience.handle_full_window(clock::monotonic());
                self.poll_deadline(context).map(Err)
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.exchange.borrow().patience.is_quiet()
    }
}

impl<T: AsyncRead + Sink + Unpin> Wire<T> {
    /// Reads once there is something to read; that there is nothing is not asked for twice.
    fn poll_input(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_drained {
            ready!(self.stream.poll_readable(context))?;
            self.is_drained = false;
        }
        let len = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.is_drained = (1..buffer.len()).contains(&len);
        Poll::Ready(Ok(len))
    }
}

impl<T: Sink> Wire<T> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let result = self.exchange.borrow_mut().loans.poll_send(&self.stream, context);
        self.written(result, context)
    }
}

impl<T: AsyncRead + Sink + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        {
            let mut exchange = self.exchange.borrow_mut();
            if exchange.is_dismissed {
                return Poll::Ready(Ok(0));
            }
            exchange.note_waker(context.waker());
        }
        match self.poll_input(context, buffer) {
            Poll::Ready(Ok(len)) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                Poll::Ready(self.exchange.borrow_mut().handle_input(bytes).map(|()| len))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_deadline(context).map(Err),
        }
    }
}

impl<T: AsyncWrite + Sink + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_quiet() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if is_stand_in(bytes) {
            return self.poll_send(context);
        }
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_quiet() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let plain = slices.iter().take_while(|slice| !is_stand_in(slice)).count();
        let (plain, lent) = slices.split_at_checked(plain).unwrap_or((slices, &[]));
        if plain.is_empty() && !lent.is_empty() {
            return self.poll_send(context);
        }
        let result = match lent {
            [] => Pin::new(&mut self.stream).poll_write_vectored(context, plain),
            _ => self.stream.poll_write_ahead(plain, context),
        };
        self.written(result, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if !self.exchange.borrow().loans.is_empty() {
            return Poll::Ready(Err(io::Error::other("a loan that nothing stood in for")));
        }
        self.exchange.borrow_mut().patience.handle_flushed(clock::monotonic());
        // hyper does not read again before it is woken, so the time between requests begins here.
        match self.poll_deadline(context) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// The connection's task closes the socket, when it has said what there is to say.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
