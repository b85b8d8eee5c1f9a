//! Requests to fields and back, with all checks.

use super::{kind, Hint, Request, RequestFields, SegmentName, Vcpu, PULL_PAGES_MAX, THIS_VCPU};
use crate::paravirt::segments::{is_segment_size, Consistency, SEGMENTS_MAX};
use crate::paravirt::{Features, PAGE_BYTES};

/// What a request is checked against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How many vCPUs the guest has.
    pub vcpus: u32,
    /// How many hosts can be part of it.
    pub hosts: u32,
    /// One past the last guest-physical address at which there can be memory.
    pub address_end: u64,
    /// What the guest has accepted.
    pub features: Features,
}

/// Why a request is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// There is no such kind in this version.
    Kind(u16),
    /// The guest has not accepted what the kind needs.
    NotAccepted(Features),
    /// A field holds what it cannot hold.
    Field(Field),
}

/// Fields of a request, with the numbers by which answers name them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Field {
    /// [`RequestFields::kind`]
    Kind = 1,
    /// [`RequestFields::code`]
    Code = 2,
    /// [`RequestFields::vcpu`]
    Vcpu = 3,
    /// [`RequestFields::host`]
    Host = 4,
    /// [`RequestFields::segment`]
    Segment = 5,
    /// [`RequestFields::address`]
    Address = 6,
    /// [`RequestFields::bytes`]
    Bytes = 7,
    /// [`RequestFields::key`]
    Key = 8,
    /// [`RequestFields::name`]
    Name = 9,
    /// [`RequestFields::zero`]
    Zero = 10,
}

impl Request {
    /// The request as it lies in a slot.
    pub fn encode(&self) -> RequestFields {
        let fields = RequestFields::ZERO;
        match *self {
            Request::MoveVcpu { vcpu, host } => {
                RequestFields { kind: kind::MOVE_VCPU, vcpu: vcpu.to_field(), host, ..fields }
            }
            Request::LockVcpu { vcpu } => {
                RequestFields { kind: kind::LOCK_VCPU, vcpu: vcpu.to_field(), ..fields }
            }
            Request::UnlockVcpu { vcpu } => {
                RequestFields { kind: kind::UNLOCK_VCPU, vcpu: vcpu.to_field(), ..fields }
            }
            Request::PullPages { address, bytes, host } => {
                RequestFields { kind: kind::PULL_PAGES, address, bytes, host, ..fields }
            }
            Request::Hint { vcpu, hint } => {
                RequestFields { kind: kind::HINT, vcpu: vcpu.to_field(), code: hint.to_code(), ..fields }
            }
            Request::CreateSegment { by, bytes, consistency } => {
                let code = consistency.to_code().into();
                RequestFields { kind: kind::CREATE_SEGMENT, code, bytes, ..by.to_fields() }
            }
            Request::AttachSegment { by } => RequestFields { kind: kind::ATTACH_SEGMENT, ..by.to_fields() },
            Request::DetachSegment { segment } => {
                RequestFields { kind: kind::DETACH_SEGMENT, segment, ..fields }
            }
            Request::ReleaseSegment { segment } => {
                RequestFields { kind: kind::RELEASE_SEGMENT, segment, ..fields }
            }
            Request::RemoveSegment { segment } => {
                RequestFields { kind: kind::REMOVE_SEGMENT, segment, ..fields }
            }
        }
    }

    /// The request in the fields of a slot. They may hold anything: what a guest has written.
    ///
    /// # Errors
    /// If it is none, or none that `limits` allow. Whether it makes sense now (the host is there, the segment exists, the
    /// address is memory) is for the device to find out.
    pub fn decode(fields: &RequestFields, limits: &Limits) -> Result<Request, Malformed> {
        let request = Reader { fields, limits }.request()?;
        let needed = request.needs();
        if !limits.features.contains(needed) {
            return Err(Malformed::NotAccepted(needed));
        }
        // A field that this kind does not use must be zero: then, and only then, encoding gives the same fields.
        match first_difference(&request.encode(), fields) {
            None => Ok(request),
            Some(field) => Err(Malformed::Field(field)),
        }
    }

    /// What the guest must have accepted to make this request.
    pub fn needs(&self) -> Features {
        match self {
            Request::MoveVcpu { .. } => Features::MOVE,
            Request::LockVcpu { .. } | Request::UnlockVcpu { .. } => Features::LOCK,
            Request::PullPages { .. } => Features::PULL,
            Request::Hint { .. } => Features::HINTS,
            Request::CreateSegment { consistency: Consistency::EagerRelease, .. }
            | Request::ReleaseSegment { .. } => Features::SEGMENTS.union(Features::EAGER_RELEASE),
            Request::CreateSegment { .. }
            | Request::AttachSegment { .. }
            | Request::DetachSegment { .. }
            | Request::RemoveSegment { .. } => Features::SEGMENTS,
        }
    }
}

fn first_difference(ours: &RequestFields, theirs: &RequestFields) -> Option<Field> {
    let differs = [
        (ours.kind != theirs.kind, Field::Kind),
        (ours.code != theirs.code, Field::Code),
        (ours.vcpu != theirs.vcpu, Field::Vcpu),
        (ours.host != theirs.host, Field::Host),
        (ours.segment != theirs.segment, Field::Segment),
        (ours.address != theirs.address, Field::Address),
        (ours.bytes != theirs.bytes, Field::Bytes),
        (ours.key != theirs.key, Field::Key),
        (ours.name != theirs.name, Field::Name),
        (ours.zero != theirs.zero, Field::Zero),
    ];
    differs.into_iter().find(|(differs, _)| *differs).map(|(_, field)| field)
}

impl Vcpu {
    fn to_field(self) -> u32 {
        match self {
            Vcpu::This => THIS_VCPU,
            Vcpu::Number(number) => number,
        }
    }
}

impl SegmentName {
    fn to_fields(self) -> RequestFields {
        match self {
            SegmentName::Key(key) => RequestFields { key, ..RequestFields::ZERO },
            SegmentName::Name(name) => RequestFields { name, ..RequestFields::ZERO },
        }
    }
}

/// Reads fields with their checks.
struct Reader<'a> {
    fields: &'a RequestFields,
    limits: &'a Limits,
}

impl Reader<'_> {
    fn request(&self) -> Result<Request, Malformed> {
        let RequestFields { kind, bytes, .. } = *self.fields;
        Ok(match kind {
            kind::MOVE_VCPU => Request::MoveVcpu { vcpu: self.vcpu()?, host: self.host()? },
            kind::LOCK_VCPU => Request::LockVcpu { vcpu: self.vcpu()? },
            kind::UNLOCK_VCPU => Request::UnlockVcpu { vcpu: self.vcpu()? },
            kind::PULL_PAGES => self.pull()?,
            kind::HINT => {
                let hint = Hint::from_code(self.fields.code).ok_or(Malformed::Field(Field::Code))?;
                Request::Hint { vcpu: self.vcpu()?, hint }
            }
            kind::CREATE_SEGMENT => {
                let (by, consistency) = (self.segment_name()?, self.consistency()?);
                require(is_segment_size(bytes), Field::Bytes)?;
                Request::CreateSegment { by, bytes, consistency }
            }
            kind::ATTACH_SEGMENT => Request::AttachSegment { by: self.segment_name()? },
            kind::DETACH_SEGMENT => Request::DetachSegment { segment: self.segment()? },
            kind::RELEASE_SEGMENT => Request::ReleaseSegment { segment: self.segment()? },
            kind::REMOVE_SEGMENT => Request::RemoveSegment { segment: self.segment()? },
            other => return Err(Malformed::Kind(other)),
        })
    }

    fn vcpu(&self) -> Result<Vcpu, Malformed> {
        match self.fields.vcpu {
            THIS_VCPU => Ok(Vcpu::This),
            number if number < self.limits.vcpus => Ok(Vcpu::Number(number)),
            _ => Err(Malformed::Field(Field::Vcpu)),
        }
    }

    fn host(&self) -> Result<u32, Malformed> {
        require(self.fields.host < self.limits.hosts, Field::Host)?;
        Ok(self.fields.host)
    }

    fn segment(&self) -> Result<u32, Malformed> {
        require(self.fields.segment < SEGMENTS_MAX, Field::Segment)?;
        Ok(self.fields.segment)
    }

    fn pull(&self) -> Result<Request, Malformed> {
        let RequestFields { address, bytes, .. } = *self.fields;
        let whole = |value: u64| value.is_multiple_of(PAGE_BYTES);
        require(whole(address) && address < self.limits.address_end, Field::Address)?;
        // No overflow: the address is below the end.
        let fits = bytes <= self.limits.address_end - address;
        let size = bytes > 0 && bytes <= PULL_PAGES_MAX * PAGE_BYTES;
        require(whole(bytes) && size && fits, Field::Bytes)?;
        Ok(Request::PullPages { address, bytes, host: self.host()? })
    }

    fn consistency(&self) -> Result<Consistency, Malformed> {
        let code = u8::try_from(self.fields.code).ok().and_then(Consistency::from_code);
        code.ok_or(Malformed::Field(Field::Code))
    }

    fn segment_name(&self) -> Result<SegmentName, Malformed> {
        let RequestFields { key, name, .. } = *self.fields;
        match (key, name.is_none()) {
            (0, true) => Err(Malformed::Field(Field::Key)),
            (key, true) => Ok(SegmentName::Key(key)),
            (0, false) if name.text().is_some() => Ok(SegmentName::Name(name)),
            _ => Err(Malformed::Field(Field::Name)),
        }
    }
}

fn require(holds: bool, field: Field) -> Result<(), Malformed> {
    if holds {
        Ok(())
    } else {
        Err(Malformed::Field(field))
    }
}
