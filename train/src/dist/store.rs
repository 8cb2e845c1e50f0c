//! The small store of keys where ranks meet, in the wire protocol of c10d's TCPStore (torch 2.11): a client, so
//! that torchrun's agent can serve it, and a server, so that nothing of Python is needed.
//!
//! A message is one byte of `query`, then numbers (8 bytes, little-endian) and byte strings (length, bytes).
//! Lengths are bounded before anything is allocated, and a peer that breaks a rule loses its connection.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest key.
pub const LONGEST_KEY: usize = 4 << 10;
/// The longest value.
pub const LONGEST_VALUE: usize = 1 << 20;
/// Most keys in one message.
const MOST_KEYS: u64 = 1 << 16;
/// Most connections at a time.
const MOST_CONNECTIONS: usize = 1 << 14;
/// What a client says first.
const MAGIC: u32 = 0x3C85_F7CE;
/// Time between two looks of a connection that waits for a key.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The longest pause between two tries to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The first byte of a message.
mod query {
    pub(super) const VALIDATE: u8 = 0;
    pub(super) const SET: u8 = 1;
    pub(super) const COMPARE_SET: u8 = 2;
    pub(super) const GET: u8 = 3;
    pub(super) const ADD: u8 = 4;
    pub(super) const CHECK: u8 = 5;
    pub(super) const WAIT: u8 = 6;
    pub(super) const COUNT: u8 = 7;
    pub(super) const DELETE: u8 = 8;
    pub(super) const APPEND: u8 = 9;
    pub(super) const MULTI_GET: u8 = 10;
    pub(super) const MULTI_SET: u8 = 11;
    pub(super) const CANCEL_WAIT: u8 = 12;
    pub(super) const PING: u8 = 13;
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_u8(from: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn read_bytes(from: &mut impl Read, longest: usize) -> io::Result<Vec<u8>> {
    let length = read_u64(from)?;
    if length > longest as u64 {
        return Err(broken("a string is too long"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn put_bytes(message: &mut Vec<u8>, bytes: &[u8]) {
    message.extend((bytes.len() as u64).to_le_bytes());
    message.extend(bytes);
}

type Map = HashMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct Shared {
    map: Mutex<Map>,
    open: Mutex<HashMap<u64, TcpStream>>,
    closing: AtomicBool,
}

impl Shared {
    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running store. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Serves on `port` of all interfaces; a free one if it is 0.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn start(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        Self::serve(listener)
    }

    /// Serves on a free port of this machine alone.
    ///
    /// # Errors
    /// No port can be had.
    pub fn local() -> io::Result<Self> {
        Self::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
    }

    fn serve(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("store".into()).spawn(move || accept(&listener, &theirs))?;
        Ok(Server { address, shared })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for stream in self.shared.open().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts, so that it sees the flag and lets go of the port.
        let host = if self.address.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let _ = TcpStream::connect_timeout(&SocketAddr::new(host, self.address.port()), Duration::from_secs(1));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for id in 0.. {
        let accepted = listener.accept();
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, or a peer that left at once: the next one may do better.
            std::thread::sleep(LOOK_EVERY);
            continue;
        };
        let Ok(copy) = stream.try_clone() else { continue };
        let mut open = shared.open();
        if open.len() >= MOST_CONNECTIONS {
            continue;
        }
        open.insert(id, copy);
        drop(open);
        let theirs = Arc::clone(shared);
        let started = std::thread::Builder::new().name("store-peer".into()).spawn(move || {
            let _ = answer(stream, &theirs);
            theirs.open().remove(&id);
        });
        if started.is_err() {
            shared.open().remove(&id);
        }
    }
}

/// Answers one connection until it ends or breaks a rule.
fn answer(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut from = BufReader::new(stream);
    let mut magic = [0; 5];
    from.read_exact(&mut magic)?;
    if magic[0] != query::VALIDATE || magic[1..] != MAGIC.to_le_bytes() {
        return Err(broken("not a client of the store"));
    }
    loop {
        let kind = read_u8(&mut from)?;
        let key = |from: &mut BufReader<TcpStream>| read_bytes(from, LONGEST_KEY);
        let value = |from: &mut BufReader<TcpStream>| read_bytes(from, LONGEST_VALUE);
        let mut reply = Vec::new();
        match kind {
            query::SET => {
                let (key, value) = (key(&mut from)?, value(&mut from)?);
                shared.map().insert(key, value);
            }
            query::COMPARE_SET => {
                let (key, expected, wanted) = (key(&mut from)?, value(&mut from)?, value(&mut from)?);
                let mut map = shared.map();
                let current = map.get(&key).cloned();
                let matches = current.as_ref().map_or(expected.is_empty(), |current| *current == expected);
                let now = if matches { wanted.clone() } else { current.unwrap_or(expected) };
                if matches {
                    map.insert(key, wanted);
                }
                put_bytes(&mut reply, &now);
            }
            query::GET => {
                let key = key(&mut from)?;
                put_bytes(&mut reply, shared.map().get(&key).ok_or_else(|| broken("no such key"))?);
            }
            query::ADD => {
                let (key, by) = (key(&mut from)?, read_u64(&mut from)? as i64);
                let mut map = shared.map();
                let old = match map.get(&key) {
                    Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<i64>().ok()),
                    None => Some(0),
                };
                let new = old.ok_or_else(|| broken("not a number"))?.wrapping_add(by);
                map.insert(key, new.to_string().into_bytes());
                reply.extend(new.to_le_bytes());
            }
            query::CHECK => {
                let keys = keys(&mut from)?;
                let map = shared.map();
                reply.push(u8::from(!keys.iter().all(|key| map.contains_key(key))));
            }
            query::WAIT => {
                if wait(&keys(&mut from)?, &mut from, shared)? {
                    reply.push(0);
                }
            }
            query::CANCEL_WAIT => reply.push(1),
            query::COUNT => reply.extend((shared.map().len() as u64).to_le_bytes()),
            query::DELETE => {
                let key = key(&mut from)?;
                reply.extend(u64::from(shared.map().remove(&key).is_some()).to_le_bytes());
            }
            query::APPEND => {
                let (key, value) = (key(&mut from)?, value(&mut from)?);
                let mut map = shared.map();
                let whole = map.entry(key).or_default();
                if whole.len() + value.len() > LONGEST_VALUE {
                    return Err(broken("a value is too long"));
                }
                whole.extend(value);
            }
            query::MULTI_GET => {
                let keys = keys(&mut from)?;
                let map = shared.map();
                for key in keys {
                    put_bytes(&mut reply, map.get(&key).ok_or_else(|| broken("no such key"))?);
                }
            }
            query::MULTI_SET => {
                for _ in 0..count(&mut from)? {
                    let (key, value) = (key(&mut from)?, value(&mut from)?);
                    shared.map().insert(key, value);
                }
            }
            query::PING => {
                let mut nonce = [0; 4];
                from.read_exact(&mut nonce)?;
                reply.extend(nonce);
            }
            _ => return Err(broken("an unknown message")),
        }
        out.write_all(&reply)?;
    }
}

fn count(from: &mut impl Read) -> io::Result<u64> {
    let count = read_u64(from)?;
    if count > MOST_KEYS { Err(broken("too many keys")) } else { Ok(count) }
}

fn keys(from: &mut impl Read) -> io::Result<Vec<Vec<u8>>> {
    (0..count(from)?).map(|_| read_bytes(from, LONGEST_KEY)).collect()
}

/// Waits until all `keys` are there; false if the peer said something else before.
fn wait(keys: &[Vec<u8>], from: &mut BufReader<TcpStream>, shared: &Shared) -> io::Result<bool> {
    from.get_ref().set_read_timeout(Some(LOOK_EVERY))?;
    let done = loop {
        let there = {
            let map = shared.map();
            keys.iter().all(|key| map.contains_key(key))
        };
        if there {
            break true;
        }
        match from.fill_buf() {
            Ok([]) => return Err(broken("the peer left")),
            Ok(_) => break false,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    };
    from.get_ref().set_read_timeout(None)?;
    Ok(done)
}

/// A connection to a store.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects to `host`, trying again with growing pauses until `deadline`, or until the process is asked to stop: names
    /// and servers come up late. No answer may take longer than `patience`.
    ///
    /// # Errors
    /// The last failure before the end.
    pub fn connect(
        host: &str,
        port: u16,
        deadline: Instant,
        patience: Duration,
        asked_to_stop: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let mut pause = Duration::from_millis(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match Self::try_connect(host, port, left.clamp(LOOK_EVERY, Duration::from_secs(10)), patience) {
                Ok(client) => return Ok(client),
                Err(error) if left <= pause || asked_to_stop() => return Err(error),
                Err(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn try_connect(host: &str, port: u16, time: Duration, patience: Duration) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"));
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, time) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(patience))?;
                    stream.set_write_timeout(Some(patience))?;
                    let mut client = Client { stream };
                    client.greet()?;
                    return Ok(client);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn greet(&mut self) -> io::Result<()> {
        let mut message = vec![query::VALIDATE];
        message.extend(MAGIC.to_le_bytes());
        message.push(query::PING);
        message.extend(MAGIC.to_le_bytes());
        self.stream.write_all(&message)?;
        let mut nonce = [0; 4];
        self.stream.read_exact(&mut nonce)?;
        if nonce == MAGIC.to_le_bytes() { Ok(()) } else { Err(broken("that is no store")) }
    }

    /// The address of this machine that the store is reached from.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_host(&self) -> io::Result<String> {
        Ok(self.stream.local_addr()?.ip().to_canonical().to_string())
    }

    fn send(&mut self, kind: u8, key: &str, rest: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut message = vec![kind];
        put_bytes(&mut message, key.as_bytes());
        rest(&mut message);
        self.stream.write_all(&message)
    }

    /// Puts `value` at `key`.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn set(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        self.send(query::SET, key, |message| put_bytes(message, value))
    }

    /// What stands at `key`, if anything.
    ///
    /// # Errors
    /// The connection is gone, or no answer came in time.
    pub fn get(&mut self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let mut message = vec![query::CHECK];
        message.extend(1u64.to_le_bytes());
        put_bytes(&mut message, key.as_bytes());
        self.stream.write_all(&message)?;
        if read_u8(&mut self.stream)? != 0 {
            return Ok(None);
        }
        self.send(query::GET, key, |_| ())?;
        read_bytes(&mut self.stream, LONGEST_VALUE).map(Some)
    }

    /// Adds `by` to the number at `key`, which begins at 0, and returns the sum.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn add(&mut self, key: &str, by: i64) -> io::Result<i64> {
        self.send(query::ADD, key, |message| message.extend(by.to_le_bytes()))?;
        read_u64(&mut self.stream).map(|sum| sum as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(server: &Server) -> Client {
        let soon = Instant::now() + Duration::from_secs(20);
        Client::connect("127.0.0.1", server.port(), soon, Duration::from_secs(20), &|| false).expect("connects")
    }

    #[test]
    fn what_is_set_is_there_for_others() {
        let server = Server::local().expect("serves");
        let (mut a, mut b) = (client(&server), client(&server));
        assert_eq!(b.get("k").expect("answers"), None);
        a.set("k", &[7; 128]).expect("sets");
        assert_eq!(a.add("n", 5).expect("adds"), 5);
        assert_eq!(b.add("n", -2).expect("adds"), 3);
        assert_eq!(b.get("k").expect("answers"), Some(vec![7; 128]));
        assert_eq!(b.get("n").expect("answers"), Some(b"3".to_vec()));
    }

    #[test]
    fn messages_are_the_protocols_bytes() {
        let server = Server::local().expect("serves");
        let mut raw = TcpStream::connect(("127.0.0.1", server.port())).expect("connects");
        let mut ask = |message: &[u8], answer: &[u8]| {
            raw.write_all(message).expect("writes");
            let mut got = vec![0; answer.len()];
            raw.read_exact(&mut got).expect("answers");
            assert_eq!(got, answer, "{message:?}");
        };
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        ask(&[0, 0xCE, 0xF7, 0x85, 0x3C], &[]);
        ask(&[13, 1, 2, 3, 4], &[1, 2, 3, 4]);
        ask(&[&[1][..], &text("a"), &text("xy")].concat(), &[]);
        ask(&[&[3][..], &text("a")].concat(), &text("xy"));
        ask(&[&[2][..], &text("a"), &text("no"), &text("z")].concat(), &text("xy"));
        ask(&[&[2][..], &text("a"), &text("xy"), &text("z")].concat(), &text("z"));
        ask(&[&[2][..], &text("new"), &text(""), &text("n")].concat(), &text("n"));
        ask(&[&[9][..], &text("a"), &text("!")].concat(), &[]);
        ask(&[&[5, 1, 0, 0, 0, 0, 0, 0, 0][..], &text("b")].concat(), &[1]);
        ask(&[&[6, 1, 0, 0, 0, 0, 0, 0, 0][..], &text("b"), &[12]].concat(), &[1]);
        ask(&[&[6, 1, 0, 0, 0, 0, 0, 0, 0][..], &text("a")].concat(), &[0]);
        ask(&[&[11, 1, 0, 0, 0, 0, 0, 0, 0][..], &text("b"), &text("")].concat(), &[]);
        let both = [text("z!"), text("")].concat();
        ask(&[&[10, 2, 0, 0, 0, 0, 0, 0, 0][..], &text("a"), &text("b")].concat(), &both);
        ask(&[7], &3u64.to_le_bytes());
        ask(&[&[8][..], &text("b")].concat(), &1u64.to_le_bytes());
        ask(&[&[4][..], &text("c"), &(-2i64).to_le_bytes()].concat(), &(-2i64).to_le_bytes());
    }

    #[test]
    fn garbage_costs_the_sender_its_connection_and_nobody_else() {
        let server = Server::local().expect("serves");
        let mut good = client(&server);
        let greeting = [0, 0xCE, 0xF7, 0x85, 0x3C];
        let mut noise = 12345u64;
        let mut junk: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            [&greeting[..], &[1], &u64::MAX.to_le_bytes()].concat(),
            [&greeting[..], &[1], &4097u64.to_le_bytes()].concat(),
            [&greeting[..], &[10], &u64::MAX.to_le_bytes()].concat(),
            [&greeting[..], &[99]].concat(),
            [&greeting[..], &[3, 1, 0, 0, 0, 0, 0, 0, 0, b'?']].concat(),
        ];
        for _ in 0..64 {
            let bytes = (0..64).map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            });
            junk.push(greeting.into_iter().chain(bytes).collect());
        }
        for (i, bytes) in junk.iter().enumerate() {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connects");
            stream.write_all(bytes).expect("writes");
            if i < 6 {
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
                // An end or a reset; never an answer.
                assert!(!matches!(stream.read(&mut [0; 1]), Ok(1)), "{bytes:?}");
            }
        }
        assert_eq!(good.add("n", 1).expect("still answers"), 1);
    }

    #[test]
    fn a_dropped_server_lets_go_and_a_late_one_is_waited_for() {
        let server = Server::local().expect("serves");
        let port = server.port();
        let mut left = client(&server);
        drop(server);
        assert!(left.get("k").is_err());
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            Server::start(port)
        });
        let soon = Instant::now() + Duration::from_secs(20);
        let found = Client::connect("localhost", port, soon, Duration::from_secs(20), &|| false);
        assert!(late.join().expect("ends").is_ok());
        assert!(found.is_ok());
        let now = Instant::now() + Duration::from_millis(50);
        assert!(Client::connect("host.invalid", port, now, Duration::from_secs(1), &|| false).is_err());
    }
}
