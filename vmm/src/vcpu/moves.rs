//! Carrying out what the hand-over decides. Everything here runs on the vCPU's own thread.

use tessera_migration::context::{self, ContextError};
use tessera_migration::handover::{Action, Event, MoveMessage, Refusal};
use tessera_migration::kvm_ext;

use super::core::VcpuError;
use super::mailbox::{Mail, Transit};
use super::proxy;
use super::resident;
use super::thread::VcpuThread;
use crate::host::priority::Priority;

/// IA32_TSC_ADJUST: what the guest itself has added to its TSC (SDM 3B 18.17.3).
const TSC_ADJUST: u32 = 0x3b;

type MoveEvent = Event<Box<Transit>>;
type MoveAction = Action<Box<Transit>>;

impl VcpuThread {
    /// Reads one letter.
    pub(super) fn read(&mut self, mail: Mail) -> Result<(), VcpuError> {
        match mail {
            Mail::Move { to, reply } => {
                if self.order.is_some() {
                    // Whoever asked may have gone; then nobody is told.
                    let _ = reply.send(Err(Refusal::Busy));
                    return Ok(());
                }
                self.order = Some(reply);
                self.decide(Event::Order(to))
            }
            Mail::Timeout => self.decide(Event::Timeout),
            Mail::Peer(from, message) => self.decide(Event::Message(from, message)),
            Mail::Lost(peer) => self.decide(Event::Lost(peer)),
            Mail::Learn(epoch) => {
                self.handover.learn(epoch);
                Ok(())
            }
            Mail::Close(reason) => {
                self.handover.close(reason);
                Ok(())
            }
            Mail::Look(seen) => {
                // Whoever asked may have gone.
                let _ = seen.send(());
                Ok(())
            }
            Mail::Quit => Ok(()),
        }
    }

    /// Feeds the hand-over and carries out its actions, which may feed it again.
    fn decide(&mut self, event: MoveEvent) -> Result<(), VcpuError> {
        let mut actions = Vec::new();
        self.handover.handle(event, &mut actions);
        // What an action leads to comes after all of them: a vCPU whose context could not be sent becomes a proxy
        // before it is taken back.
        let mut follow = Vec::new();
        for action in actions {
            follow.extend(self.carry_out(action)?);
        }
        follow.into_iter().try_for_each(|next| self.decide(next))
    }

    fn carry_out(&mut self, action: MoveAction) -> Result<Option<MoveEvent>, VcpuError> {
        let id = self.core.id;
        match action {
            Action::Send(to, message) => {
                match message {
                    // What arrives here from now on follows the context, on the same link.
                    MoveMessage::Commit(..) => self.around.departing(id, to),
                    MoveMessage::Done(epoch, _) => self.around.settled(id, epoch),
                    _ => {}
                }
                let sent = self.around.send_move(to, id, message);
                Ok((!sent).then_some(Event::Unsent(to)))
            }
            Action::Freeze => Ok(Some(self.freeze()?)),
            Action::BecomeProxy => self.become_proxy(),
            Action::Adopt(transit) => Ok(Some(self.adopt(&transit)?)),
            Action::TakeBack(transit) => {
                self.load(&transit)?;
                self.around.placed(id, self.around.this_node(), self.handover.epoch());
                Ok(None)
            }
            Action::Report(outcome) => {
                if let Ok(arrival) = &outcome {
                    self.around.placed(id, arrival.node, arrival.epoch);
                    self.departed = None;
                }
                if let Some(reply) = self.order.take() {
                    let _ = reply.send(outcome);
                }
                Ok(None)
            }
            Action::Stop(peer) => {
                self.around.failed(format!(
                    "{id} was on its way to {peer} when that was lost; it may have run there"
                ));
                Ok(None)
            }
        }
    }

    /// Stops the vCPU where it is and reads it.
    fn freeze(&mut self) -> Result<MoveEvent, VcpuError> {
        let frozen_at_tsc = self.around.guest_tsc();
        resident::finish(&mut self.core, &*self.around)?;
        match context::capture(&self.core.fd, &self.core.msrs, self.core.xsave_bytes) {
            Ok(context) => {
                let transit = Box::new(Transit { context, frozen_at_tsc });
                self.departed = Some(transit.clone());
                Ok(Event::Frozen(transit))
            }
            Err(error @ ContextError::Starting) => Ok(Event::NotFrozen(Refusal::Freeze(error.to_string()))),
            Err(error) => Err(VcpuError::Context { vcpu: self.core.id, source: error }),
        }
    }

    /// The context is on its way: from here on this is a stand-in, and what had arrived is relayed after it.
    fn become_proxy(&mut self) -> Result<Option<MoveEvent>, VcpuError> {
        if let Some(transit) = self.departed.take() {
            self.core.set_priority(Priority::RealTime);
            self.waiting = proxy::take_over(&mut self.core, &transit.context, &*self.around)?;
        }
        Ok(None)
    }

    /// Takes a vCPU that has come; on failure this stays a proxy.
    fn adopt(&mut self, transit: &Transit) -> Result<MoveEvent, VcpuError> {
        match self.load(transit) {
            Ok(()) => {
                let blackout_us = self.blackout_us(transit.frozen_at_tsc);
                self.frozen_at_tsc = Some(transit.frozen_at_tsc);
                let epoch = self.handover.epoch();
                tracing::trace!(vcpu = self.core.id.0, blackout_us, ?epoch, "arrived");
                Ok(Event::Adopted(blackout_us))
            }
            Err(error) => {
                self.waiting = proxy::install(&mut self.core)?;
                Ok(Event::NotAdopted(Refusal::Adopt(error.to_string())))
            }
        }
    }

    /// Writes a context into this vCPU, which is a proxy at rest.
    fn load(&mut self, transit: &Transit) -> Result<(), VcpuError> {
        let context = &transit.context;
        let others = proxy::raise(&mut self.core, &context.apic, &*self.around)?;
        // The time first: the timer's deadline among the MSRs is in guest time.
        let adjust =
            context.msrs.iter().find(|(index, _)| *index == TSC_ADJUST).map_or(0, |&(_, value)| value);
        let offset = self.core.tsc_offset_ticks.wrapping_add(adjust);
        self.core.call("KVM_VCPU_TSC_OFFSET", kvm_ext::set_tsc_offset(&self.core.fd, offset))?;
        self.core.context(context::restore(&self.core.fd, context, self.core.xsave_bytes))?;
        self.core.set_priority(Priority::Ordinary);
        for interrupt in others {
            self.around.inject_here(self.core.id, interrupt);
        }
        Ok(())
    }
}
