//! The driver and the guest's mapping of one segment on one node, with pages of `N` bytes.

use crate::ids::NodeId;
use crate::release::diff::{self, Difference};
use crate::release::{Access, Action, Contents, Message, Outcome, PageIndex, Payload, Ticket};

/// What the driver keeps beside a page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Beside<const N: usize> {
    Nothing,
    Twin([u8; N]),
    Aside(Vec<u8>),
}

/// One page on one node. Absent pages are zeros.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mapping<const N: usize> {
    pub rights: Option<Access>,
    pub bytes: [u8; N],
    pub beside: Beside<N>,
}

impl<const N: usize> Mapping<N> {
    const ABSENT: Mapping<N> = Mapping { rights: None, bytes: [0; N], beside: Beside::Nothing };

    pub fn allows(&self, access: Access) -> bool {
        self.rights.is_some_and(|rights| rights >= access)
    }

    /// The page as it was last released, if this is the owner.
    pub fn released(&self) -> &[u8; N] {
        match &self.beside {
            Beside::Twin(twin) => twin,
            _ => &self.bytes,
        }
    }
}

/// A message on its way, with what travels with it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    pub message: Message,
    pub data: Option<Vec<u8>>,
}

/// What actions did beyond the mapping.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub sent: Vec<(NodeId, Packet)>,
    /// Pages whose waiting vCPUs were woken.
    pub woken: Vec<PageIndex>,
    pub released: Vec<(Ticket, Outcome)>,
    pub owned: Option<NodeId>,
    pub broken: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host<const N: usize> {
    pub mappings: Vec<Mapping<N>>,
}

impl<const N: usize> Host<N> {
    pub fn new(pages: usize) -> Self {
        Host { mappings: vec![Mapping::ABSENT; pages] }
    }

    /// Carries out `actions` in order; `received` is what came with the message being handled.
    pub fn carry_out(
        &mut self,
        actions: &[Action],
        received: Option<&[u8]>,
        effects: &mut Effects,
    ) -> Result<(), String> {
        for action in actions {
            self.carry_out_one(action, received, effects).map_err(|why| format!("{action:?}: {why}"))?;
        }
        Ok(())
    }

    fn carry_out_one(
        &mut self,
        action: &Action,
        received: Option<&[u8]>,
        effects: &mut Effects,
    ) -> Result<(), String> {
        let page = match *action {
            Action::Send { to, message } => {
                let packet = self.packet(message)?;
                effects.sent.push((to, packet));
                return Ok(());
            }
            Action::Released { ticket, outcome, .. } => {
                effects.released.push((ticket, outcome));
                return Ok(());
            }
            Action::Owned { owner, .. } => {
                effects.owned = Some(owner);
                return Ok(());
            }
            Action::Broken { .. } => {
                effects.broken = true;
                return Ok(());
            }
            Action::Install { page, .. }
            | Action::Merge { page, .. }
            | Action::AllowWrites { page, .. }
            | Action::Protect { page, .. }
            | Action::SetAside { page, .. }
            | Action::Settle { page, .. }
            | Action::Discard { page, .. }
            | Action::Apply { page, .. }
            | Action::Wake { page, .. } => page,
        };
        self.change(action, page, received, effects)
    }

    fn change(
        &mut self,
        action: &Action,
        page: PageIndex,
        received: Option<&[u8]>,
        effects: &mut Effects,
    ) -> Result<(), String> {
        let mapping = &mut self.mappings[page.index()];
        match *action {
            Action::Install { rights, contents, .. } => {
                require(mapping.rights.is_none(), "the page is there")?;
                require(mapping.beside == Beside::Nothing, "something was kept for the page")?;
                mapping.bytes = match contents {
                    Contents::Zero => [0; N],
                    Contents::Received => page_of(received)?,
                };
                mapping.rights = Some(rights);
                if rights == Access::Write {
                    mapping.beside = Beside::Twin(mapping.bytes);
                }
                effects.woken.push(page);
            }
            Action::Merge { .. } => {
                require(mapping.rights.is_none(), "the page is there")?;
                let Beside::Aside(changes) = &mapping.beside else {
                    return Err("nothing was set aside".into());
                };
                let twin = page_of(received)?;
                mapping.bytes = twin;
                parse::<N>(changes)?.apply(&mut mapping.bytes);
                (mapping.rights, mapping.beside) = (Some(Access::Write), Beside::Twin(twin));
                effects.woken.push(page);
            }
            Action::AllowWrites { .. } => {
                require(mapping.rights == Some(Access::Read), "the page is not a read copy")?;
                require(mapping.beside == Beside::Nothing, "something was kept for the page")?;
                (mapping.rights, mapping.beside) = (Some(Access::Write), Beside::Twin(mapping.bytes));
                effects.woken.push(page);
            }
            Action::Protect { .. } => {
                require(mapping.rights == Some(Access::Write), "the page is not writable")?;
                mapping.rights = Some(Access::Read);
            }
            Action::SetAside { .. } => mapping.beside = Beside::Aside(mapping.changes()?),
            Action::Settle { .. } => {
                require(mapping.beside != Beside::Nothing, "nothing was kept for the page")?;
                require(mapping.rights != Some(Access::Write), "the guest still writes the page")?;
                mapping.beside = Beside::Nothing;
            }
            Action::Discard { .. } => {
                require(mapping.rights == Some(Access::Read), "the page is not protected")?;
                require(!matches!(mapping.beside, Beside::Twin(_)), "changes are lost")?;
                (mapping.rights, mapping.bytes) = (None, [0; N]);
            }
            Action::Apply { .. } => {
                require(mapping.rights.is_some(), "the owner's page is not there")?;
                let changes = parse::<N>(received.ok_or("no difference came")?)?;
                changes.apply(&mut mapping.bytes);
                if let Beside::Twin(twin) = &mut mapping.beside {
                    changes.apply(twin);
                }
            }
            Action::Wake { rights, .. } => {
                require(mapping.rights == Some(rights), "the guest's rights are others")?;
                effects.woken.push(page);
            }
            _ => {}
        }
        Ok(())
    }

    fn packet(&self, message: Message) -> Result<Packet, String> {
        let mapping = message.page().map(|page| &self.mappings[page.index()]);
        match (message.payload(), mapping) {
            (Payload::None, mapping) => {
                if let Message::Invalidated { .. } = message {
                    let gone = mapping.is_some_and(|mapping| mapping.rights.is_none());
                    require(gone, "the copy is still there")?;
                }
                Ok(Packet { message, data: None })
            }
            (Payload::Page, Some(mapping)) => {
                let stable =
                    mapping.rights != Some(Access::Write) || matches!(mapping.beside, Beside::Twin(_));
                require(stable, "the page is sent while the guest writes")?;
                Ok(Packet { message, data: Some(mapping.released().to_vec()) })
            }
            (Payload::Difference, Some(mapping)) => {
                let changes = mapping.changes()?;
                let is_same = changes.is_empty();
                let message = if is_same { message.unchanged() } else { message };
                Ok(Packet { message, data: (!is_same).then_some(changes) })
            }
            (_, None) => Err("bytes of no page".into()),
        }
    }
}

impl<const N: usize> Mapping<N> {
    /// Changes that are not released.
    fn changes(&self) -> Result<Vec<u8>, String> {
        match &self.beside {
            Beside::Nothing => Err("there is nothing to compare with".into()),
            Beside::Aside(changes) => Ok(changes.clone()),
            Beside::Twin(twin) => {
                require(self.rights == Some(Access::Read), "the guest still writes the page")?;
                let mut changes = vec![];
                diff::encode(twin, &self.bytes, &mut changes);
                Ok(changes)
            }
        }
    }
}

pub fn parse<const N: usize>(bytes: &[u8]) -> Result<Difference<'_>, String> {
    Difference::parse(bytes, N).map_err(|why| why.to_string())
}

fn page_of<const N: usize>(received: Option<&[u8]>) -> Result<[u8; N], String> {
    let received = received.ok_or("no page came")?;
    received.try_into().map_err(|_| format!("a page of {} bytes came", received.len()))
}

fn require(holds: bool, why: &str) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(why.to_owned()),
    }
}
