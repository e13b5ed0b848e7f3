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
    /// Uploads that have begun and are neither completed nor given up: the key of the object, and what there is of it, by number.
    pub uploads: BTreeMap<String, (String, BTreeMap<usize, Vec<u8>>)>,
    /// Of Azure: parts of objects, by key and name, that are none yet.
    pub blocks: BTreeMap<(String, String), Vec<u8>>,
    /// How many uploads have begun.
    pub begun: usize,
    /// What is gone when it has been listed.
    pub removed_after_list: Option<String>,
    /// Requests that complete an upload are refused.
    pub refuses_completion: bool,
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
    /// Of the URL, as `name=value`.
    query: Vec<(String, String)>,
    /// The bytes that are asked for.
    range: Option<(usize, usize)>,
    /// What the object must still be.
    if_match: Option<String>,
    is_signed: bool,
    body: Vec<u8>,
}

impl Request {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    /// Of what is sent, and of the object as a whole.
    range: Option<(usize, usize, usize)>,
    /// Names the content of the object.
    tag: String,
    /// Whether the body is only told of.
    is_head: bool,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), range: None, tag: String::new(), is_head: false }
    }
}

/// A name of the content, as S3 has one.
fn tag(content: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:x}\"", hasher.finish())
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

    fn answer(&mut self, request: Request) -> Answer {
        *if matches!(request.method.as_str(), "GET" | "HEAD") { &mut self.gets } else { &mut self.puts } += 1;
        if let Some((left @ 1.., status, body)) = &mut self.failing {
            *left -= 1;
            return Answer::new(*status, body.clone());
        }
        if !request.is_signed && !self.is_open {
            return Answer::new(403, "");
        }
        if let Some(what) = request.query("comp").map(str::to_owned) {
            return self.azure(&what, request);
        }
        let upload = request.query("uploadId").map(str::to_owned);
        match (request.method.as_str(), upload) {
            ("GET", None) if request.query("list-type").is_some() => self.list(&request),
            ("GET" | "HEAD", None) => self.object(&request),
            ("PUT", None) => {
                self.objects.insert(request.key, request.body);
                Answer::new(200, "")
            }
            ("POST", None) if request.query("uploads").is_some() => {
                self.begun += 1;
                let id = format!("upload-{}", self.begun);
                let body =
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
                self.uploads.insert(id, (request.key, BTreeMap::new()));
                Answer::new(200, body)
            }
            ("PUT", Some(id)) => {
                let number = request.query("partNumber").and_then(|number| number.parse().ok()).expect("a number");
                let Some((_, parts)) = self.uploads.get_mut(&id) else { return no_such("NoSuchUpload") };
                let tag = tag(&request.body);
                parts.insert(number, request.body);
                Answer { tag, ..Answer::new(200, "") }
            }
            ("POST", Some(_)) if self.refuses_completion => {
                Answer::new(403, "<Error><Code>AccessDenied</Code></Error>")
            }
            ("POST", Some(id)) => {
                let Some((key, parts)) = self.uploads.remove(&id) else { return no_such("NoSuchUpload") };
                let asked = String::from_utf8(request.body).expect("XML").matches("<Part>").count();
                assert_eq!(asked, parts.len(), "parts are missing");
                let object: Vec<u8> = parts.into_values().flatten().collect();
                let tag = tag(&object);
                self.objects.insert(key, object);
                Answer::new(
                    200,
                    format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"),
                )
            }
            ("POST", None) if request.query("delete").is_some() => {
                let text = String::from_utf8(request.body).expect("XML");
                let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
                let bucket = request.key.trim_end_matches('/');
                let mut body = String::from("<DeleteResult>");
                for key in keys {
                    self.objects.remove(&format!("{bucket}/{key}"));
                    body += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
                Answer::new(200, body + "</DeleteResult>")
            }
            ("DELETE", Some(id)) => match self.uploads.remove(&id) {
                Some(_) => Answer::new(204, ""),
                None => no_such("NoSuchUpload"),
            },
            _ => Answer::new(405, ""),
        }
    }

    /// Requests of which Azure has a form of its own.
    fn azure(&mut self, what: &str, request: Request) -> Answer {
        match what {
            "block" => {
                let block = request.query("blockid").expect("it has one").to_owned();
                self.blocks.insert((request.key, block), request.body);
            }
            "blocklist" => {
                let text = String::from_utf8(request.body).expect("XML");
                let blocks = text.split("<Uncommitted>").skip(1).filter_map(|rest| rest.split("</Uncommitted>").next());
                let taken = blocks.map(|block| self.blocks.remove(&(request.key.clone(), block.to_owned())));
                let Some(object) = taken.collect::<Option<Vec<_>>>() else {
                    return Answer::new(400, "<Error><Code>InvalidBlockList</Code></Error>");
                };
                self.objects.insert(request.key, object.concat());
            }
            "list" => {
                let container = format!("{}/", request.key.trim_end_matches('/'));
                let prefix = request.query("prefix").unwrap_or_default();
                let mut body = String::from("<EnumerationResults><Blobs>");
                for (key, object) in &self.objects {
                    let Some(name) = key.strip_prefix(&container) else { continue };
                    let Some(rest) = name.strip_prefix(prefix) else { continue };
                    if request.query("delimiter").is_some() && rest.contains('/') {
                        continue;
                    }
                    let (size, tag) = (object.len(), tag(object).replace('"', "&quot;"));
                    body += &format!(
                        "<Blob><Name>{name}</Name><Properties><Last-Modified>Tue, 01 Jul 2025 12:00:00 GMT</Last-Modified>\
                         <Content-Length>{size}</Content-Length><Content-Type>x</Content-Type><Etag>{tag}</Etag></Properties></Blob>"
                    );
                }
                return Answer::new(200, body + "</Blobs></EnumerationResults>");
            }
            _ => return Answer::new(405, ""),
        }
        Answer { tag: "\"new\"".to_owned(), ..Answer::new(201, "") }
    }

    fn object(&mut self, request: &Request) -> Answer {
        let Some(object) = self.objects.get(&request.key) else { return no_such("NoSuchKey") };
        let tag = tag(object);
        if request.if_match.as_ref().is_some_and(|wanted| *wanted != tag) {
            return Answer::new(412, "<Error><Code>PreconditionFailed</Code></Error>");
        }
        let is_head = request.method == "HEAD";
        match request.range {
            Some((first, last)) if first < object.len() => {
                let end = object.len().min(last + 1);
                let range = Some((first, end - 1, object.len()));
                Answer { range, tag, is_head, ..Answer::new(206, &object[first..end]) }
            }
            Some(_) => Answer::new(416, ""),
            None => Answer { tag, is_head, ..Answer::new(200, object.clone()) },
        }
    }

    /// As `ListObjectsV2`, two objects a page.
    fn list(&mut self, request: &Request) -> Answer {
        let bucket = format!("{}/", request.key.trim_end_matches('/'));
        let prefix = request.query("prefix").unwrap_or_default();
        let after = request.query("continuation-token").unwrap_or_default();
        let below = self.objects.iter().filter_map(|(key, object)| Some((key.strip_prefix(&bucket)?, object)));
        // Of what would be folders nobody needs to be told.
        let is_flat = request.query("delimiter").is_some();
        let is_asked_for =
            |key: &str| key.strip_prefix(prefix).is_some_and(|rest| !(is_flat && rest.contains('/'))) && key > after;
        let mut found = below.filter(|(key, _)| is_asked_for(key)).peekable();
        let mut body = String::from("<ListBucketResult>");
        let mut last = "";
        for (key, object) in found.by_ref().take(2) {
            last = key;
            let (size, tag) = (object.len(), tag(object).replace('"', "&quot;"));
            body += &format!(
                "<Contents><Key>{key}</Key><LastModified>2025-07-01T12:00:00.000Z</LastModified><ETag>{tag}</ETag><Size>{size}</Size></Contents>"
            );
        }
        if found.peek().is_some() {
            body += &format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>");
        }
        body += "</ListBucketResult>";
        if let Some(key) = self.removed_after_list.take() {
            self.objects.remove(&key);
        }
        Answer::new(200, body)
    }
}

fn no_such(code: &str) -> Answer {
    Answer::new(404, format!("<Error><Code>{code}</Code></Error>"))
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
        let is_put = request.method == "PUT";
        let answer = {
            let mut inner = lock(inner);
            inner.at_once -= 1;
            if is_put && inner.puts_left.as_mut().is_some_and(|left| left.checked_sub(1).map(|l| *left = l).is_none()) {
                inner.end();
            }
            if inner.is_gone {
                return;
            }
            inner.answer(request)
        };
        let Answer { status, body, range, tag, is_head } = answer;
        let mut head = format!(
            "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nETag: {tag}\r\nLast-Modified: Tue, 01 Jul 2025 12:00:00 GMT\r\n",
            body.len(),
        );
        if let Some((first, last, all)) = range {
            head += &format!("Content-Range: bytes {first}-{last}/{all}\r\n");
        }
        head += "\r\n";
        let body = if is_head { Vec::new() } else { body };
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
    let (mut length, mut is_signed, mut range, mut if_match) = (0, false, None, None);
    loop {
        let header = next()?.to_ascii_lowercase();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().expect("it is a number"),
            Some(("range", value)) => {
                let (first, last) = value.trim_start_matches("bytes=").split_once('-').expect("a range");
                range = Some((first.parse().expect("a number"), last.parse().expect("a number")));
            }
            Some(("if-match", value)) => if_match = Some(value.to_owned()),
            Some(("authorization", value)) => {
                let sound = ["aws4-hmac-sha256 credential=key-id/", "sharedkey account:"];
                is_signed = sound.iter().any(|sound| value.starts_with(sound));
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = query.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    Ok(Request { method, key: decoded(path.trim_start_matches('/')), query, range, if_match, is_signed, body })
}

/// Text of a URL, without `%`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(match byte {
            b'%' => digit().zip(digit()).map_or(b'%', |(high, low)| u8::try_from(high * 16 + low).expect("a byte")),
            other => other,
        });
    }
    String::from_utf8(bytes).expect("names are text")
}
