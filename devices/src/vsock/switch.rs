//! All connections, and what each packet and each event of a socket does.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use tracing::debug;
use zerocopy::little_endian::{U16, U32, U64};

use super::config::{CALLERS_MAX, DATA_BYTES_MAX, HOST_CID, LINKS_MAX, OUTBOX_MAX};
use super::host::HostSockets;
use super::link::{FromHost, Link, Stage};
use super::packet::{Head, Op, Outgoing, Ports, NO_RECEIVE, NO_SEND, STREAM};
use crate::virtio::engine::{Interest, Readiness, Watcher};

/// The token of the socket where callers come in; the others are given in turn.
pub(super) const LISTENER: u32 = 0;
/// The first port that callers get; those below are the host's own.
const FIRST_PORT: u32 = 1 << 30;
/// Most callers that come in before others have their turn.
const CALLERS_AT_ONCE: usize = 16;
/// Most bytes in a caller's first line.
const LINE_BYTES_MAX: usize = 32;

/// Somebody on the host who has not said yet which port is wanted.
struct Caller {
    token: u32,
    socket: UnixStream,
    line: Vec<u8>,
}

/// All connections of a guest.
pub(super) struct Switch {
    cid: u32,
    host: HostSockets,
    links: BTreeMap<u32, (Ports, Link)>,
    tokens: BTreeMap<Ports, u32>,
    callers: VecDeque<Caller>,
    /// Packets without data for the guest.
    outbox: VecDeque<Outgoing>,
    /// Connections whose socket is to be read.
    ready: VecDeque<u32>,
    last_token: u32,
    last_port: u32,
}

impl Switch {
    pub(super) fn new(cid: u32, host: HostSockets) -> Self {
        Switch {
            cid,
            host,
            links: BTreeMap::new(),
            tokens: BTreeMap::new(),
            callers: VecDeque::new(),
            outbox: VecDeque::new(),
            ready: VecDeque::new(),
            last_token: LISTENER,
            last_port: FIRST_PORT,
        }
    }

    pub(super) fn host(&self) -> &HostSockets {
        &self.host
    }

    /// Packets without data that wait for the guest.
    pub(super) fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// Hangs up on everybody.
    pub(super) fn clear(&mut self, watcher: &mut dyn Watcher) {
        let links = std::mem::take(&mut self.links);
        links.values().for_each(|(_, link)| link.forget(watcher));
        self.callers.drain(..).for_each(|caller| watcher.forget(caller.socket.as_fd()));
        self.tokens.clear();
        self.outbox.clear();
        self.ready.clear();
    }

    /// A packet of the guest.
    pub(super) fn take(&mut self, head: &Head, data: &[u8], watcher: &mut dyn Watcher) {
        let ports = Ports { host: head.to_port.get(), guest: head.from_port.get() };
        if head.from_cid.get() != u64::from(self.cid) || head.to_cid.get() != HOST_CID {
            return debug!(?head, "a packet that is not from this guest to its host is dropped");
        }
        let op = Op::of(head.op.get()).filter(|_| head.kind.get() == STREAM);
        let token = self.tokens.get(&ports).copied();
        match (op, token) {
            (Some(Op::Reset), token) => token.map_or((), |token| self.remove(token, watcher)),
            (Some(Op::Request), None) => self.request(ports, head, watcher),
            (Some(op), Some(token)) => self.advance(token, op, head, data, watcher),
            (_, None) => self.send(ports, Op::Reset, 0),
            (None, Some(token)) => self.refuse(token, watcher),
        }
    }

    /// The guest wants to reach a port of the host.
    fn request(&mut self, ports: Ports, head: &Head, watcher: &mut dyn Watcher) {
        let linked =
            match self.links.len() < LINKS_MAX {
                true => self.host.connect(ports.host).ok().and_then(|socket| {
                    self.add(ports, Link::new(socket, Stage::Open), Interest::Read, watcher)
                }),
                false => None,
            };
        match linked.and_then(|token| self.links.get_mut(&token)) {
            Some((_, link)) => {
                link.flow.heard(head.room.get(), head.taken.get());
                self.send(ports, Op::Response, 0);
            }
            None => self.send(ports, Op::Reset, 0),
        }
    }

    /// A packet of a connection.
    fn advance(&mut self, token: u32, op: Op, head: &Head, data: &[u8], watcher: &mut dyn Watcher) {
        let Some((ports, link)) = self.links.get_mut(&token) else { return };
        let ports = *ports;
        link.flow.heard(head.room.get(), head.taken.get());
        let fits = match (op, link.stage) {
            (Op::Response, Stage::Offered) => {
                link.stage = Stage::Open;
                link.greet(&format!("OK {}\n", ports.host));
                true
            }
            (Op::Data, Stage::Open) => link.accept(data).is_ok(),
            (Op::Shutdown, Stage::Open) => {
                link.end(head.flags.get());
                true
            }
            (Op::Credit, _) => true,
            (Op::CreditRequest, _) => {
                self.outbox.push_back(Outgoing { ports, op: Op::Credit, flags: 0 });
                true
            }
            _ => false,
        };
        if !fits {
            return self.refuse(token, watcher);
        }
        if link.is_stalled && link.flow.may_send() > 0 {
            link.is_stalled = false;
            link.is_ready = true;
            self.ready.push_back(token);
        }
        self.flush(token, watcher);
    }

    /// Passes on what the guest sent, and sees what comes of it.
    fn flush(&mut self, token: u32, watcher: &mut dyn Watcher) {
        let Some((ports, link)) = self.links.get_mut(&token) else { return };
        let ports = *ports;
        if link.flush().is_err() || link.is_over() {
            return self.refuse(token, watcher);
        }
        if link.flow.has_news() && !link.is_news_due {
            link.is_news_due = true;
            self.outbox.push_back(Outgoing { ports, op: Op::Credit, flags: 0 });
        }
        if !link.listen(token, watcher) {
            self.refuse(token, watcher);
        }
    }

    /// An event of a socket.
    pub(super) fn event(&mut self, token: u32, readiness: Readiness, watcher: &mut dyn Watcher) {
        if token == LISTENER {
            return self.admit(watcher);
        }
        if let Some(at) = self.callers.iter().position(|caller| caller.token == token) {
            return self.hear(at, watcher);
        }
        let Some((ports, link)) = self.links.get_mut(&token) else { return };
        if readiness.closed {
            // The kernel would say so for ever. What can still be read is read when the guest has room for it.
            link.forget(watcher);
            link.is_hung_up = true;
            if link.host_ended || link.stage == Stage::Offered {
                let (ports, ways) = (*ports, NO_SEND | NO_RECEIVE);
                match link.stage {
                    Stage::Open => self.send(ports, Op::Shutdown, ways),
                    Stage::Offered => self.refuse(token, watcher),
                }
                return;
            }
        }
        if (readiness.read || readiness.closed) && link.may_read() && !link.is_ready && !link.is_stalled {
            link.is_ready = true;
            self.ready.push_back(token);
        }
        self.flush(token, watcher);
    }

    /// The next packet for a guest that has room for `room` bytes of data.
    pub(super) fn next_packet(&mut self, room: usize, watcher: &mut dyn Watcher) -> Option<(Head, Vec<u8>)> {
        loop {
            if let Some(packet) = self.outbox.pop_front() {
                return Some((self.head(packet, 0), Vec::new()));
            }
            let token = self.ready.pop_front()?;
            if let Some(packet) = self.read(token, room, watcher) {
                return Some(packet);
            }
        }
    }

    /// Reads a socket; what that gives besides data is in the outbox.
    fn read(&mut self, token: u32, room: usize, watcher: &mut dyn Watcher) -> Option<(Head, Vec<u8>)> {
        let (ports, link) = self.links.get_mut(&token)?;
        let ports = *ports;
        let most = room.min(DATA_BYTES_MAX).min(link.flow.may_send() as usize);
        link.is_ready = false;
        if !link.may_read() {
            return None;
        }
        if most == 0 {
            link.is_stalled = true;
            self.outbox.push_back(Outgoing { ports, op: Op::CreditRequest, flags: 0 });
        } else {
            match link.read(most) {
                Ok(FromHost::Bytes(bytes)) => {
                    link.flow.sent(bytes.len() as u32);
                    link.is_ready = true;
                    self.ready.push_back(token);
                    let head = self.head(Outgoing { ports, op: Op::Data, flags: 0 }, bytes.len() as u32);
                    return Some((head, bytes));
                }
                Ok(FromHost::Nothing) if !link.is_hung_up => {}
                ended => {
                    link.host_ended = true;
                    let both = link.is_hung_up || ended.is_err();
                    let ways = if both { NO_SEND | NO_RECEIVE } else { NO_SEND };
                    self.outbox.push_back(Outgoing { ports, op: Op::Shutdown, flags: ways });
                }
            }
        }
        self.flush(token, watcher);
        None
    }

    fn head(&mut self, packet: Outgoing, len: u32) -> Head {
        let Outgoing { ports, op, flags } = packet;
        let token = self.tokens.get(&ports);
        let (room, taken) = match token.and_then(|token| self.links.get_mut(token)) {
            Some((_, link)) => {
                link.is_news_due = false;
                link.flow.tell()
            }
            None => (0, 0),
        };
        Head {
            from_cid: U64::new(HOST_CID),
            to_cid: U64::new(self.cid.into()),
            from_port: U32::new(ports.host),
            to_port: U32::new(ports.guest),
            len: U32::new(len),
            kind: U16::new(STREAM),
            op: U16::new(op.number()),
            flags: U32::new(flags),
            room: U32::new(room),
            taken: U32::new(taken),
        }
    }

    /// Callers come in.
    fn admit(&mut self, watcher: &mut dyn Watcher) {
        for _ in 0..CALLERS_AT_ONCE {
            let Some(socket) = self.host.accept() else { return };
            let token = self.new_token();
            if watcher.watch(socket.as_fd(), token, Interest::Read).is_err() {
                return;
            }
            self.callers.push_back(Caller { token, socket, line: Vec::new() });
            if self.callers.len() > CALLERS_MAX {
                self.hang_up(0, watcher);
            }
        }
    }

    fn hang_up(&mut self, at: usize, watcher: &mut dyn Watcher) -> Option<Caller> {
        let caller = self.callers.remove(at)?;
        watcher.forget(caller.socket.as_fd());
        Some(caller)
    }

    /// A caller says which port is wanted. Byte by byte: what comes behind the line is for the guest.
    fn hear(&mut self, at: usize, watcher: &mut dyn Watcher) {
        let Some(caller) = self.callers.get_mut(at) else { return };
        let mut byte = [0];
        while caller.line.len() < LINE_BYTES_MAX {
            match caller.socket.read(&mut byte) {
                Ok(1) if byte == *b"\n" => return self.connect(at, watcher),
                Ok(1) => caller.line.push(byte[0]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                _ => break,
            }
        }
        self.hang_up(at, watcher);
    }

    /// A caller's line is complete.
    fn connect(&mut self, at: usize, watcher: &mut dyn Watcher) {
        let Some(caller) = self.hang_up(at, watcher) else { return };
        let line = String::from_utf8_lossy(&caller.line);
        let port = line.strip_prefix("CONNECT ").and_then(|port| port.trim_end().parse::<u32>().ok());
        // Who calls and hangs up, over and over, leaves packets for the guest behind.
        let has_room = self.links.len() < LINKS_MAX && self.outbox.len() < OUTBOX_MAX;
        let Some(guest) = port.filter(|_| has_room) else { return };
        let ports = Ports { host: self.new_port(guest), guest };
        let link = Link::new(caller.socket, Stage::Offered);
        if self.add(ports, link, Interest::None, watcher).is_some() {
            self.send(ports, Op::Request, 0);
        }
    }

    fn add(
        &mut self,
        ports: Ports,
        mut link: Link,
        interest: Interest,
        watcher: &mut dyn Watcher,
    ) -> Option<u32> {
        let token = self.new_token();
        watcher.watch(link.socket.as_fd(), token, interest).ok()?;
        link.interest = interest;
        self.tokens.insert(ports, token);
        self.links.insert(token, (ports, link));
        Some(token)
    }

    /// Ends a connection and tells the guest.
    fn refuse(&mut self, token: u32, watcher: &mut dyn Watcher) {
        if let Some((ports, _)) = self.links.get(&token) {
            let ports = *ports;
            self.remove(token, watcher);
            self.send(ports, Op::Reset, 0);
        }
    }

    fn remove(&mut self, token: u32, watcher: &mut dyn Watcher) {
        if let Some((ports, link)) = self.links.remove(&token) {
            link.forget(watcher);
            self.tokens.remove(&ports);
            self.ready.retain(|ready| *ready != token);
        }
    }

    fn send(&mut self, ports: Ports, op: Op, flags: u32) {
        self.outbox.push_back(Outgoing { ports, op, flags });
    }

    /// A token that nobody has.
    fn new_token(&mut self) -> u32 {
        loop {
            // The greatest is the event loop's own.
            self.last_token = self.last_token % (u32::MAX - 1) + 1;
            let token = self.last_token;
            let taken =
                self.links.contains_key(&token) || self.callers.iter().any(|other| other.token == token);
            if !taken {
                return token;
            }
        }
    }

    /// A port of the host that has no connection with this one of the guest.
    fn new_port(&mut self, guest: u32) -> u32 {
        loop {
            self.last_port = self.last_port.checked_add(1).unwrap_or(FIRST_PORT);
            let host = self.last_port;
            if !self.tokens.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }
}
