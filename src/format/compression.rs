//! Compression of files: [`decompress`] and [`Compressor`], and [`BlockWriter`], which makes its output depend on the content alone.

use std::io::{self, Read, Write};

use bzip2::read::MultiBzDecoder;
use bzip2::write::BzEncoder;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzWriter};

use super::Compression;
use super::xz::XzReader;

/// As `xz` does it when it is not told otherwise.
const XZ_PRESET: u32 = 6;

/// Reads what `input` holds. Several gzip members, zstd frames, or streams of bzip2 or xz in a row read as one. A cut-off file is an error of the
/// kind `UnexpectedEof`; an error of the kind `WouldBlock` passes through, and reading can go on after it.
pub fn decompress<R: Read + Send + 'static>(input: R, compression: Compression) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::Decoder::new(input)?),
        Compression::Bzip2 => Box::new(MultiBzDecoder::new(input)),
        Compression::Xz => Box::new(XzReader::new(input)),
        Compression::Snappy => return Err(of_pages_only()),
    })
}

/// Bytes, compressed so that they can stand in front of what else is compressed in the same way.
pub fn pack(bytes: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    let mut packed = Compressor::new(Vec::new(), compression)?;
    packed.write_all(bytes)?;
    packed.finish()
}

/// The plan refuses it for whole files.
fn of_pages_only() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "snappy compresses the pages of Parquet files only")
}

/// Compresses what is written to it. Nothing in the output says when or where it was made.
pub(super) enum Compressor<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
    Bzip2(BzEncoder<W>),
    Xz(Box<XzWriter<W>>),
}

impl<W: Write> Compressor<W> {
    pub(super) fn new(output: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(output),
            Compression::Gzip => Self::Gzip(GzEncoder::new(output, flate2::Compression::default())),
            Compression::Zstd => Self::Zstd(zstd::Encoder::new(output, zstd::DEFAULT_COMPRESSION_LEVEL)?),
            Compression::Bzip2 => Self::Bzip2(BzEncoder::new(output, bzip2::Compression::default())),
            Compression::Xz => Self::Xz(Box::new(XzWriter::new(output, XzOptions::with_preset(XZ_PRESET))?)),
            Compression::Snappy => return Err(of_pages_only()),
        })
    }

    /// Writes the end of the compressed data.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::None(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Bzip2(encoder) => encoder.finish(),
            Self::Xz(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(output) => output.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Bzip2(encoder) => encoder.write(bytes),
            Self::Xz(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(output) => output.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Bzip2(encoder) => encoder.flush(),
            Self::Xz(encoder) => encoder.flush(),
        }
    }
}

/// Passes on what is written in blocks of one size. What a compressor puts out depends on how it is fed, so it is always
/// fed the same way.
pub struct BlockWriter<W> {
    output: W,
    block: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    const SIZE: usize = 1 << 20;

    pub fn new(output: W) -> Self {
        Self { output, block: Vec::with_capacity(Self::SIZE) }
    }

    /// Passes on the last, shorter block.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&self.block)?;
        Ok(self.output)
    }
}

impl<W: Write> Write for BlockWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(Self::SIZE - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == Self::SIZE {
            self.output.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(taken)
    }

    /// Does nothing: a block that ends early would make the output depend on when that was asked for.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
