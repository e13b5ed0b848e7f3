//! [`Frame`]: one message of the worker protocol (`docs/protocol.md`): a fixed header, JSON text, data, and descriptors beside them.

use std::os::fd::OwnedFd;

use serde_json::Value;

/// Version of the protocol; both ends check it.
pub const PROTOCOL: u32 = 1;

pub const HEADER_BYTES: usize = 64;

/// Longest text or data of a frame; a longer one is no frame of ours.
const LONGEST_PART: u32 = 1 << 30;

/// What a frame says. The numbers are the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    // To a worker.
    Open = 1,
    Schema = 2,
    Segment = 3,
    Run = 4,
    Pull = 5,
    Release = 6,
    Forget = 7,
    Stop = 8,
    FinishKeys = 9,
    Restore = 10,
    Answer = 11,
    Shared = 12,
    // From a worker.
    Hello = 16,
    Opened = 17,
    WorkerSchema = 18,
    WorkerSegment = 19,
    Batch = 20,
    Done = 21,
    Error = 22,
    Released = 23,
    Dropped = 24,
    CaughtUp = 25,
    Ledger = 26,
    DoneAgain = 27,
    Snapshot = 28,
    RowsFailed = 29,
    Ask = 30,
    // To and from a template.
    Prepare = 32,
    Fork = 33,
    Forked = 34,
    Exited = 35,
    Shutdown = 36,
    // To and from the guardian.
    Spawn = 48,
    Spawned = 49,
    SpawnFailed = 50,
    ProcessExited = 51,
    GoOn = 52,
    StopProcess = 53,
}

impl Kind {
    const ALL: [Self; 38] = [
        Self::Open,
        Self::Schema,
        Self::Segment,
        Self::Run,
        Self::Pull,
        Self::Release,
        Self::Forget,
        Self::Stop,
        Self::FinishKeys,
        Self::Restore,
        Self::Answer,
        Self::Shared,
        Self::Hello,
        Self::Opened,
        Self::WorkerSchema,
        Self::WorkerSegment,
        Self::Batch,
        Self::Done,
        Self::Error,
        Self::Released,
        Self::Dropped,
        Self::CaughtUp,
        Self::Ledger,
        Self::DoneAgain,
        Self::Snapshot,
        Self::RowsFailed,
        Self::Ask,
        Self::Prepare,
        Self::Fork,
        Self::Forked,
        Self::Exited,
        Self::Shutdown,
        Self::Spawn,
        Self::Spawned,
        Self::SpawnFailed,
        Self::ProcessExited,
        Self::GoOn,
        Self::StopProcess,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Flag of `Batch`: the data ends with an index of the input row of every row.
pub const FLAG_ORIGIN: u16 = 1;
/// Flag of `Done`: the generator is exhausted.
pub const FLAG_END: u16 = 2;

/// Flag of `Run`: the other rows of the batch are run elsewhere; the answer is a part.
pub const FLAG_PART: u16 = 4;
/// Flag of `Run`: the last column has what the function gave for each row.
pub const FLAG_JOIN: u16 = 8;
/// Flag of `Run` and `Batch`: the batch is scattered, and the data say where its buffers lie.
pub const FLAG_SCATTERED: u16 = 16;
/// Flag of `Run`: only the state that it leaves is wanted.
/// The worker hangs in place of the call.
pub const FLAG_HANG: u16 = 1 << 7;
pub const FLAG_AGAIN: u16 = 32;
/// Flag of `Run`: the state that it leaves is to be given too.
pub const FLAG_SNAPSHOT: u16 = 64;

/// Flag of `Spawn`: only a failure and the end are to be reported.
pub const FLAG_QUIET: u16 = 4;
/// Flag of `Spawn`: the process has one of the run's slots.
pub const FLAG_SLOT: u16 = 8;
/// Flag of `Spawn`: the process is to be started when a slot is free.
pub const FLAG_NEXT: u16 = 16;

/// One message. Fields that a kind does not use are 0.
#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub flags: u16,
    pub stage: u32,
    pub attempt: u64,
    pub sequence: u64,
    pub schema: u32,
    pub segment: u32,
    pub offset: u64,
    pub length: u64,
    pub rows: u32,
    pub port: u32,
    pub text: Vec<u8>,
    pub data: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("kind {0} is unknown")]
    UnknownKind(u8),
    #[error("a part of {0} bytes is too long")]
    TooLong(u32),
    #[error("its text is not the JSON that was expected: {0}")]
    Text(#[from] serde_json::Error),
}

impl Frame {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            flags: 0,
            stage: 0,
            attempt: 0,
            sequence: 0,
            schema: 0,
            segment: 0,
            offset: 0,
            length: 0,
            rows: 0,
            port: 0,
            text: Vec::new(),
            data: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// With `text` as JSON.
    pub fn with_text(mut self, text: &Value) -> Self {
        self.text = text.to_string().into_bytes();
        self
    }

    /// The text, read as JSON of a known shape.
    ///
    /// # Errors
    /// [`FrameError::Text`] if it has another shape.
    pub fn text<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, FrameError> {
        Ok(serde_json::from_slice(&self.text)?)
    }

    /// The header; text and data follow it on the wire.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0] = self.kind as u8;
        header[1] = u8::try_from(self.fds.len()).expect("a frame has at most three descriptors");
        header[2..4].copy_from_slice(&self.flags.to_le_bytes());
        header[4..8].copy_from_slice(&part_length(&self.text).to_le_bytes());
        header[8..12].copy_from_slice(&part_length(&self.data).to_le_bytes());
        header[12..16].copy_from_slice(&self.stage.to_le_bytes());
        header[16..24].copy_from_slice(&self.attempt.to_le_bytes());
        header[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        header[32..36].copy_from_slice(&self.schema.to_le_bytes());
        header[36..40].copy_from_slice(&self.segment.to_le_bytes());
        header[40..48].copy_from_slice(&self.offset.to_le_bytes());
        header[48..56].copy_from_slice(&self.length.to_le_bytes());
        header[56..60].copy_from_slice(&self.rows.to_le_bytes());
        header[60..64].copy_from_slice(&self.port.to_le_bytes());
        header
    }

    /// Reads the first frame of `bytes`. Returns it with its length and the number of descriptors that belong to it, or `None`
    /// if it has not arrived whole.
    ///
    /// # Errors
    /// [`FrameError`] if the bytes are no frame.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize, usize)>, FrameError> {
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let kind = Kind::from_byte(bytes[0]).ok_or(FrameError::UnknownKind(bytes[0]))?;
        let (text_length, data_length) = (u32_at(bytes, 4), u32_at(bytes, 8));
        if let Some(length) = [text_length, data_length].into_iter().find(|&length| length > LONGEST_PART) {
            return Err(FrameError::TooLong(length));
        }
        let text_end = HEADER_BYTES + text_length as usize;
        let end = text_end + data_length as usize;
        if bytes.len() < end {
            return Ok(None);
        }
        let frame = Self {
            kind,
            flags: u16::from_le_bytes([bytes[2], bytes[3]]),
            stage: u32_at(bytes, 12),
            attempt: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            schema: u32_at(bytes, 32),
            segment: u32_at(bytes, 36),
            offset: u64_at(bytes, 40),
            length: u64_at(bytes, 48),
            rows: u32_at(bytes, 56),
            port: u32_at(bytes, 60),
            text: bytes[HEADER_BYTES..text_end].to_vec(),
            data: bytes[text_end..end].to_vec(),
            fds: Vec::new(),
        };
        Ok(Some((frame, end, usize::from(bytes[1]))))
    }
}

fn part_length(part: &[u8]) -> u32 {
    u32::try_from(part.len()).expect("large batches travel in segments")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_once_it_has_arrived_whole() {
        let mut frame = Frame::new(Kind::Run).with_text(&serde_json::json!({"a": 1}));
        frame.attempt = 7;
        frame.segment = 3;
        frame.offset = 64;
        frame.data = vec![1, 2, 3];
        let bytes = [&frame.header()[..], &frame.text, &frame.data].concat();
        assert!(Frame::parse(&bytes[..bytes.len() - 1]).expect("a frame").is_none());
        let (read, length, fds) = Frame::parse(&[&bytes[..], b"next"].concat()).expect("a frame").expect("whole");
        assert_eq!((length, fds), (bytes.len(), 0));
        assert_eq!(read.header(), frame.header());
        assert_eq!((read.text, read.data), (frame.text, frame.data));
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        assert!(matches!(Frame::parse(&[99; 64]), Err(FrameError::UnknownKind(99))));
        let mut header = Frame::new(Kind::Run).header();
        header[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Frame::parse(&header), Err(FrameError::TooLong(u32::MAX))));
    }
}
