//! A small object store that speaks as much of S3 as millpond needs, on a port of this machine.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

pub struct Store {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

/// What the store has, and how it behaves.
#[derive(Default)]
pub struct Inner {
    /// By bucket and key: `bucket/prefix/ab/cd`.
    pub objects: BTreeMap<String, Vec<u8>>,
    pub gets: usize,
    pub puts: usize,
    /// So many requests are answered with this status, and this as the body.
    pub failing: Option<(usize, u16, String)>,
    /// Whether requests need no signature.
    pub is_open: bool,
    /// How long each answer takes.
    pub delay: Duration,
    /// After so many puts, it is gone.
    pub puts_left: Option<usize>,
    /// How many requests were being answered at once.
    pub most_at_once: usize,
    at_once: usize,
    connections: Vec<TcpStream>,
    is_gone: bool,
}

struct Request {
    method: String,
    key: String,
    is_signed: bool,
    body: Vec<u8>,
}

impl Store {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let inner = Arc::new(Mutex::new(Inner::default()));
        let shared = Arc::clone(&inner);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if lock(&shared).is_gone {
                    break;
                }
                lock(&shared).connections.push(connection.try_clone().expect("there are descriptors"));
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&shared, &connection));
            }
        });
        Self { address, inner }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.inner().end();
        // Ends the wait for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Inner {
    /// How many puts and gets there were.
    pub fn requests(&self) -> (usize, usize) {
        (self.puts, self.gets)
    }

    /// Answers no one any more.
    fn end(&mut self) {
        self.is_gone = true;
        self.connections.drain(..).for_each(|connection| drop(connection.shutdown(Shutdown::Both)));
    }

    fn answer(&mut self, request: Request) -> (u16, Vec<u8>) {
        *if request.method == "GET" { &mut self.gets } else { &mut self.puts } += 1;
        if let Some((left @ 1.., status, body)) = &mut self.failing {
            *left -= 1;
            return (*status, body.clone().into_bytes());
        }
        match request.method.as_str() {
            _ if !request.is_signed && !self.is_open => (403, Vec::new()),
            "GET" => match self.objects.get(&request.key) {
                Some(object) => (200, object.clone()),
                None => (404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
            },
            "PUT" => {
                self.objects.insert(request.key, request.body);
                (200, Vec::new())
            }
            _ => (405, Vec::new()),
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().expect("no test fails while it holds it")
}

/// Answers one request after the other, until the connection is closed.
fn serve(inner: &Mutex<Inner>, mut connection: &TcpStream) {
    let mut reader = BufReader::new(connection);
    while let Ok(request) = read(&mut reader) {
        let delay = {
            let mut inner = lock(inner);
            inner.at_once += 1;
            inner.most_at_once = inner.most_at_once.max(inner.at_once);
            inner.delay
        };
        thread::sleep(delay);
        let (status, body) = {
            let mut inner = lock(inner);
            inner.at_once -= 1;
            if request.method == "PUT"
                && inner.puts_left.as_mut().is_some_and(|left| left.checked_sub(1).map(|l| *left = l).is_none())
            {
                inner.end();
            }
            if inner.is_gone {
                return;
            }
            inner.answer(request)
        };
        let head = format!(
            "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nETag: \"{:x}\"\r\nLast-Modified: Tue, 01 Jul 2025 12:00:00 GMT\r\n\r\n",
            body.len(),
            body.len()
        );
        if connection.write_all(&[head.as_bytes(), &body].concat()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    let mut next = || -> io::Result<String> {
        line.clear();
        match reader.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let first = next()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut length, mut is_signed) = (0, false);
    loop {
        let header = next()?.to_ascii_lowercase();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().expect("it is a number"),
            Some(("authorization", value)) => {
                let sound = ["aws4-hmac-sha256 credential=key-id/", "sharedkey account:"];
                is_signed = sound.iter().any(|sound| value.starts_with(sound));
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, key: path.trim_start_matches('/').replace("%2F", "/"), is_signed, body })
}
