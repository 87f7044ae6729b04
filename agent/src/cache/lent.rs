//! Bytes of an object that are in the kernel's memory, and leave from there without coming into this program.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::sendfile;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// The most bytes of one loan: what a fast peer may take before others have their turn.
pub const LENT_LEN_MAX: usize = 2 << 20;

/// Where a loan is looked at: one byte in so many, as many as Linux reads ahead if nobody says otherwise.
const PROBE_STEP: usize = 128 << 10;

/// A part of an object's file that is yet to be sent.
pub struct Lent {
    file: Arc<File>,
    offset: u64,
    len: usize,
}

impl Lent {
    /// The bytes from `offset` on, or nothing where to send them would mean to wait for the disk. Every 128th KiB is looked at; what the
    /// kernel has forgotten in between costs whoever sends it one read.
    pub(super) fn new(file: &Arc<File>, offset: u64, len: usize) -> Option<Self> {
        let len = len.min(LENT_LEN_MAX);
        let last = len.checked_sub(1)?;
        let mut probes = (0..last).step_by(PROBE_STEP).chain([last]);
        let is_in_memory = probes.all(|at| has_byte(file, offset.saturating_add(at as u64)));
        is_in_memory.then(|| Self { file: Arc::clone(file), offset, len })
    }

    /// How many bytes are yet to be sent.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether all of them have been sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first bytes off, at most `len_max`.
    pub fn split_to(&mut self, len_max: usize) -> Self {
        let first =
            Self { file: Arc::clone(&self.file), offset: self.offset, len: self.len.min(len_max) };
        self.offset += first.len as u64;
        self.len -= first.len;
        first
    }

    /// Has the kernel send as much of it as the socket takes now; returns how much that was.
    ///
    /// # Errors
    /// The socket's, [`io::ErrorKind::WouldBlock`] among them; or the file has become shorter.
    pub fn send_to(&mut self, socket: impl AsFd) -> io::Result<usize> {
        loop {
            match sendfile(&socket, &*self.file, Some(&mut self.offset), self.len) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent_len) => {
                    self.len = self.len.saturating_sub(sent_len);
                    return Ok(sent_len);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({} bytes at {})", self.len, self.offset)
    }
}

/// Whether a byte is in the kernel's memory. A file system that cannot tell has none there.
fn has_byte(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let mut buffers = [io::IoSliceMut::new(&mut byte)];
    matches!(preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT), Ok(1))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn file_of(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("room on the disk");
        // What has just been written is in memory, and where the position stands must not matter.
        file.seek(SeekFrom::Start(3)).expect("a place in it");
        Arc::new(file)
    }

    #[test]
    fn what_is_lent_arrives_as_it_lies_in_the_file() {
        let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        let file = file_of(&content);
        let (mut here, there) = UnixStream::pair().expect("two sockets");
        there.set_nonblocking(true).expect("a socket");
        let mut rest = Lent::new(&file, 70_001, 500_000).expect("in memory");
        let mut lent = rest.split_to(123_456);
        let mut received = vec![0; 500_000];
        let mut received_len = 0;
        while !lent.is_empty() || !rest.is_empty() {
            if lent.is_empty() {
                lent = rest.split_to(usize::MAX);
            }
            match lent.send_to(&there) {
                Ok(len) => {
                    let part = &mut received[received_len..received_len + len];
                    here.read_exact(part).expect("what was sent");
                    received_len += len;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(received == content[70_001..570_001]);
    }

    #[test]
    fn i6_a_file_that_has_become_shorter_is_an_error_and_no_end() {
        let file = file_of(&[7; 100]);
        let (_here, there) = UnixStream::pair().expect("two sockets");
        let mut lent = Lent::new(&file, 0, 100).expect("in memory");
        file.set_len(0).expect("a shorter file");
        let error = lent.send_to(&there).expect_err("nothing is left to send");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(Lent::new(&file, 0, 100).is_none(), "and nothing is lent of it");
    }

    #[test]
    fn nothing_is_lent_of_nothing_and_not_more_than_may_be() {
        let file = file_of(&vec![7; LENT_LEN_MAX + 1]);
        assert!(Lent::new(&file, 0, 0).is_none());
        assert_eq!(Lent::new(&file, 0, usize::MAX).map(|lent| lent.len()), Some(LENT_LEN_MAX));
    }
}
