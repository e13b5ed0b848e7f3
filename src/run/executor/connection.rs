//! [`Connection`]: frames over a Unix stream socket. Never blocks unless asked to.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::frame::{Frame, FrameError};

/// Most descriptors with one frame.
const MOST_FDS: usize = 4;
/// Most bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    received: Vec<u8>,
    /// Where bytes arrive, kept so that it is not made anew for each read.
    buffer: Box<[u8]>,
    received_fds: VecDeque<OwnedFd>,
    /// What has been sent, but not yet taken by the socket.
    waiting: VecDeque<Outgoing>,
    closed: bool,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the socket failed: {0}")]
    Socket(#[from] io::Error),
    #[error("a message was malformed: {0}")]
    Frame(#[from] FrameError),
}

impl Connection {
    /// Makes a connection and the socket of its other end.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (mine, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(mine), theirs))
    }

    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            received: Vec::new(),
            buffer: vec![0; READ_BYTES].into(),
            received_fds: VecDeque::new(),
            waiting: VecDeque::new(),
            closed: false,
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Queues a frame and sends what the socket takes.
    pub fn send(&mut self, frame: Frame) {
        let mut bytes = Vec::with_capacity(64 + frame.text.len() + frame.data.len());
        bytes.extend_from_slice(&frame.header());
        bytes.extend_from_slice(&frame.text);
        bytes.extend_from_slice(&frame.data);
        self.waiting.push_back(Outgoing { bytes, sent: 0, fds: frame.fds });
        self.flush();
    }

    /// Sends what the socket takes. A peer that is gone is noticed when reading, or by its exit; what was to be sent is dropped.
    pub fn flush(&mut self) {
        while let Some(outgoing) = self.waiting.front_mut() {
            match send(&self.socket, outgoing) {
                Ok(sent) => {
                    outgoing.sent += sent;
                    outgoing.fds.clear();
                    if outgoing.sent == outgoing.bytes.len() {
                        self.waiting.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.waiting.clear();
                    return;
                }
            }
        }
    }

    /// Whether something waits for the socket to take more.
    pub fn wants_to_send(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Reads what has arrived and returns the frames that are whole. After the last one, [`Connection::is_closed`] tells whether
    /// the peer has closed its end.
    ///
    /// # Errors
    /// If the socket fails or a frame is malformed.
    pub fn receive(&mut self) -> Result<Vec<Frame>, ConnectionError> {
        while !self.closed && self.read()? {}
        let (mut frames, mut taken) = (Vec::new(), 0);
        while let Some((mut frame, length, fds)) = Frame::parse(&self.received[taken..])? {
            taken += length;
            let fds = fds.min(self.received_fds.len());
            frame.fds = self.received_fds.drain(..fds).collect();
            frames.push(frame);
        }
        self.received.drain(..taken);
        Ok(frames)
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads once; returns whether there may be more.
    fn read(&mut self) -> Result<bool, ConnectionError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut self.buffer)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(received) => {
                let before = self.received_fds.len();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        self.received_fds.extend(fds);
                    }
                }
                let has_fds = self.received_fds.len() > before;
                self.received.extend_from_slice(&self.buffer[..received.bytes]);
                self.closed = received.bytes == 0;
                // A read ends behind descriptors; otherwise only where there is nothing more, for now.
                Ok(received.bytes == self.buffer.len() || has_fds)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(Errno::INTR) => Ok(true),
            Err(Errno::CONNRESET) => {
                self.closed = true;
                Ok(false)
            }
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }
}

fn send(socket: &OwnedFd, outgoing: &Outgoing) -> Result<usize, Errno> {
    let bytes = [IoSlice::new(&outgoing.bytes[outgoing.sent..])];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = outgoing.fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "a frame has at most {MOST_FDS} descriptors");
    }
    // NOSIGNAL: a peer that has died must not kill this process.
    sendmsg(socket, &bytes, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::frame::Kind;
    use super::*;

    #[test]
    fn frames_arrive_in_order_with_their_descriptors() {
        let (mut left, right) = Connection::pair().expect("descriptors");
        let mut right = Connection::new(right);
        let (mut reader, writer) = io::pipe().expect("descriptors");
        for attempt in 0..200 {
            let mut frame = Frame::new(Kind::Run);
            frame.attempt = attempt;
            frame.data = vec![7; 10_000];
            if attempt == 100 {
                frame.fds.push(OwnedFd::from(writer.try_clone().expect("descriptors")));
            }
            left.send(frame);
        }
        drop(writer);
        let mut seen = Vec::new();
        while seen.len() < 200 {
            left.flush();
            seen.extend(right.receive().expect("frames"));
        }
        assert!(seen.iter().enumerate().all(|(at, frame)| frame.attempt == at as u64 && frame.data.len() == 10_000));
        assert_eq!(seen.iter().position(|frame| frame.fds.len() == 1), Some(100));
        let fd = seen[100].fds.pop().expect("a descriptor");
        std::fs::File::from(fd).write_all(b"x").expect("an open pipe");
        drop(seen);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, "x");
        drop(left);
        assert!(right.receive().expect("no frames").is_empty() && right.is_closed());
    }
}
