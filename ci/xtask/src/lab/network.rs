//! How the hosts of a lab are joined.
//!
//! Every two hosts have a link of their own: a network card on each side, joined by QEMU's datagram back end
//! over two unix sockets. No third process stands between them, so a round trip costs the same for two hosts
//! as for four, and nothing leaves this machine. Each host has one address, 10.77.0.N, which it uses on all
//! its links; routes by host tell which link leads to whom.
//!
//! A further card for each host leads to this machine: QEMU's user-mode network, closed to the outside, with
//! two ports on 127.0.0.1 that reach the host's node and its agent.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};

/// The port of `tessera node` inside each host.
pub const NODE_PORT: u16 = 7070;

/// A host's place in the lab, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostIndex(pub usize);

impl HostIndex {
    /// The number in addresses: from 1.
    pub fn number(self) -> u8 {
        self.0 as u8 + 1
    }

    /// Where the other hosts find its node.
    pub fn node_address(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, self.number()), NODE_PORT)
    }
}

/// The ports on 127.0.0.1 that lead into a host.
#[derive(Clone, Copy, Debug)]
pub struct Forwards {
    /// To `tessera node`.
    pub node: u16,
    /// To the agent.
    pub agent: u16,
}

impl Forwards {
    /// Picks two ports that are free now. Somebody else may take them before QEMU does: then QEMU ends at
    /// once and says so.
    ///
    /// # Errors
    /// When the system gives no port.
    pub fn pick() -> Result<Self> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1");
        let (node, agent) = (listen()?, listen()?);
        Ok(Self { node: node.local_addr()?.port(), agent: agent.local_addr()?.port() })
    }
}

/// QEMU's arguments for all network cards of a host.
pub fn arguments(me: HostIndex, hosts: usize, sockets: &Path, forwards: Forwards) -> Vec<String> {
    let mut arguments = Vec::new();
    let management = format!(
        "user,id=management,restrict=on,hostfwd=tcp:127.0.0.1:{}-:{NODE_PORT},hostfwd=tcp:127.0.0.1:{}-:{}",
        forwards.node,
        forwards.agent,
        tessera_lab_agent::PORT
    );
    card(&mut arguments, "management", &management, me.number(), 0);
    for peer in (0..hosts).map(HostIndex).filter(|peer| *peer != me) {
        let id = format!("link{}", peer.number());
        let socket = |from: HostIndex, to: HostIndex| {
            sockets.join(format!("{}-{}", from.number(), to.number())).display().to_string()
        };
        let back_end = format!(
            "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            socket(me, peer),
            socket(peer, me)
        );
        card(&mut arguments, &id, &back_end, me.number(), peer.number());
    }
    arguments
}

/// The hardware address tells the host's init what the card is for. No boot ROM: it costs time at each start.
fn card(arguments: &mut Vec<String>, id: &str, back_end: &str, me: u8, peer: u8) {
    let device = format!("virtio-net-pci,netdev={id},romfile=,mac=52:54:00:77:{me:02x}:{peer:02x}");
    arguments.extend(["-netdev", back_end, "-device", &device].map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_two_hosts_share_one_pair_of_sockets() {
        let forwards = Forwards { node: 1, agent: 2 };
        let sockets = |me: usize| {
            let all = arguments(HostIndex(me), 3, Path::new("/d"), forwards).join(" ");
            let mut ends: Vec<(String, String)> = all
                .split("local.path=")
                .skip(1)
                .map(|part| {
                    let (local, rest) = part.split_once(",remote.type=unix,remote.path=").unwrap();
                    (local.to_owned(), rest.split(' ').next().unwrap().to_owned())
                })
                .collect();
            ends.sort();
            ends
        };
        for me in 0..3 {
            assert_eq!(sockets(me).len(), 2);
            for (local, remote) in sockets(me) {
                let mirrored =
                    (0..3).filter(|peer| sockets(*peer).contains(&(remote.clone(), local.clone()))).count();
                assert_eq!(mirrored, 1, "{local} -> {remote}");
            }
        }
    }

    #[test]
    fn nothing_listens_beyond_this_machine() {
        let all = arguments(HostIndex(0), 2, Path::new("/d"), Forwards { node: 1, agent: 2 }).join(" ");
        assert!(all.contains("restrict=on"));
        assert!(all.split("hostfwd=").skip(1).all(|rule| rule.starts_with("tcp:127.0.0.1:")));
    }
}
