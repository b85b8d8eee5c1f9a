//! Finds and decodes the table of symbols in a kernel that is not compressed (`scripts/kallsyms.c` and
//! `kernel/kallsyms.c` of Linux describe it).
//!
//! A distribution's kernel has no ELF symbols, but it carries their names for its own messages: each name is a string of
//! tokens, one byte each, and 256 tokens are spelled in a table of their own. Nothing in the file says where the parts
//! lie, but they follow one another in a known order, each on a multiple of eight bytes:
//!
//! | Linux | order |
//! |---|---|
//! | to 6.1, 6.3 | offsets, base, **count, names, markers, (order by name,) token table, token index** |
//! | from 6.4 | **count, names, markers, token table, token index**, offsets, base, order by name |
//!
//! So the token index is found first, by what it must be, and the other parts from there.

use anyhow::{ensure, Context, Result};

/// Tokens of a table.
const TOKENS: usize = 256;
/// Symbols that one marker stands for.
const MARKED: usize = 256;
/// Parts start on multiples of this.
const ALIGN: usize = 8;
/// No token is longer; a symbol of all its bytes is not either.
const TOKEN_MAX: usize = 1024;
/// Bytes of a symbol's place in the order by name.
const ORDER_BYTES: usize = 3;
/// A kernel with more symbols is not searched for.
const SYMBOLS_MAX: usize = 1 << 20;
/// Where the kernel's own addresses begin: the top 2 GiB.
const KERNEL_START: u64 = 0xffff_ffff_8000_0000;

/// One symbol as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its address as linked; of a per-CPU variable its place in the per-CPU area.
    pub address: u64,
    /// Its kind, by the letters of `nm`.
    pub kind: char,
    /// Its name.
    pub name: String,
}

/// All symbols of a kernel, in the table's order.
///
/// # Errors
/// When there is no table, or it does not fit together.
pub(super) fn read(kernel: &[u8]) -> Result<Vec<Entry>> {
    let image = Image(kernel);
    let tokens = Tokens::find(image).context("there is no table of tokens")?;
    let names = Names::find(image, &tokens).context("no names lie before the table of tokens")?;
    let addresses = addresses(image, &tokens, &names).context("there are no addresses to the names")?;
    let mut entries = Vec::with_capacity(names.count);
    let mut at = names.start;
    for address in addresses {
        let (text, next) = tokens.spell(image, at).context("a name reaches beyond the file")?;
        let kind = text.chars().next().context("a symbol without a kind")?;
        entries.push(Entry { address, kind, name: text[kind.len_utf8()..].to_owned() });
        at = next;
    }
    ensure!(!entries.is_empty(), "the table is empty");
    Ok(entries)
}

/// The file.
#[derive(Clone, Copy)]
struct Image<'a>(&'a [u8]);

impl Image<'_> {
    fn byte(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn u32(self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn u64(self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.0.get(at..)?.first_chunk()?))
    }
}

/// How each token is spelled.
struct Tokens {
    table: usize,
    index: usize,
    spelled: Vec<String>,
}

impl Tokens {
    /// The index is 256 ascending 16-bit numbers, and each of them is the start of a string in the table before it.
    fn find(image: Image) -> Option<Self> {
        (0..image.0.len()).step_by(ALIGN).find_map(|index| Self::at(image, index))
    }

    fn at(image: Image, index: usize) -> Option<Self> {
        let start_of = |token: usize| image.u16(index + 2 * token).map(usize::from);
        if start_of(0)? != 0 || start_of(1)? == 0 {
            return None;
        }
        let starts: Vec<usize> = (0..TOKENS).map(start_of).collect::<Option<_>>()?;
        if !starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= TOKEN_MAX) {
            return None;
        }
        let last = starts[TOKENS - 1];
        let nearest = index.checked_sub(last)? / ALIGN * ALIGN;
        let tables = (0..=TOKEN_MAX / ALIGN).map_while(|steps| nearest.checked_sub(steps * ALIGN));
        for table in tables {
            let ends = starts[1..].iter().all(|start| image.byte(table + start - 1) == Some(0));
            let Some(spelled) = ends.then(|| spelled(image, table, &starts)).flatten() else { continue };
            let end = table + last + spelled[TOKENS - 1].len() + 1;
            if end.next_multiple_of(ALIGN) == index {
                return Some(Tokens { table, index, spelled });
            }
        }
        None
    }

    /// The name that starts here, with its kind before it, and where the next one starts.
    fn spell(&self, image: Image, at: usize) -> Option<(String, usize)> {
        let (length, start) = length(image, at)?;
        let bytes = image.0.get(start..start + length)?;
        Some((bytes.iter().map(|&token| self.spelled[usize::from(token)].as_str()).collect(), start + length))
    }
}

/// The strings of a table; none if one is no text.
fn spelled(image: Image, table: usize, starts: &[usize]) -> Option<Vec<String>> {
    let one = |start: &usize| {
        let bytes = image.0.get(table + start..)?;
        let end = bytes.iter().take(TOKEN_MAX).position(|&byte| byte == 0)?;
        bytes[..end]
            .iter()
            .all(u8::is_ascii_graphic)
            .then(|| String::from_utf8_lossy(&bytes[..end]).into_owned())
    };
    starts.iter().map(one).collect()
}

/// How many tokens a name has, and where they start: one byte, or two with seven bits each (Linux 6.1 and newer).
fn length(image: Image, at: usize) -> Option<(usize, usize)> {
    let low = usize::from(image.byte(at)?);
    match low & 0x80 {
        0 => Some((low, at + 1)),
        _ => Some((low & 0x7f | usize::from(image.byte(at + 1)?) << 7, at + 2)),
    }
}

/// Where the names lie.
struct Names {
    /// How many there are.
    count: usize,
    /// Where their number stands.
    counted: usize,
    /// The first one.
    start: usize,
}

impl Names {
    /// Before the token table are the markers: where every 256th name starts, the first one at 0. Between them there may be, three
    /// bytes for each symbol, the order of the names. Before the markers are the names, and before those their number.
    fn find(image: Image, tokens: &Tokens) -> Option<Self> {
        let least = tokens.table.saturating_sub(ORDER_BYTES * SYMBOLS_MAX);
        let ends = (least..=tokens.table).rev().filter(|end| end % ALIGN == 0);
        ends.filter_map(|end| {
            markers(image, end).map(|(markers, marks)| (tokens.table - end, markers, marks))
        })
        .filter(|(order, _, marks)| {
            *order == 0 || (order / ORDER_BYTES).div_ceil(MARKED).abs_diff(marks.len()) <= 1
        })
        .find_map(|(order, markers, marks)| {
            let names = Self::before(image, markers, &marks)?;
            let ordered = (ORDER_BYTES * names.count).next_multiple_of(ALIGN);
            (order == 0 || order == ordered).then_some(names)
        })
    }

    /// The names that end where the markers begin. Where they start is not known, but few places fit.
    fn before(image: Image, markers: usize, marks: &[u32]) -> Option<Self> {
        let last = usize::try_from(*marks.last()?).ok()?;
        let most = last + MARKED * TOKEN_MAX;
        let starts = (markers.saturating_sub(most)..=markers.checked_sub(last)?).rev();
        starts.filter(|start| start % ALIGN == 0).find_map(|start| {
            let counted = start.checked_sub(ALIGN)?;
            let count = usize::try_from(image.u32(counted)?).ok()?;
            let fits =
                count.div_ceil(MARKED) == marks.len() && Self::fit(image, start, count, markers, marks);
            fits.then_some(Names { count, counted, start })
        })
    }

    /// Whether so many names from here end where the markers begin, each 256th where its marker says.
    fn fit(image: Image, start: usize, count: usize, markers: usize, marks: &[u32]) -> bool {
        let mut at = start;
        for number in 0..count {
            if number % MARKED == 0
                && marks.get(number / MARKED).map(|&mark| start + mark as usize) != Some(at)
            {
                return false;
            }
            match length(image, at) {
                Some((tokens, first)) if tokens > 0 && first + tokens <= markers => at = first + tokens,
                _ => return false,
            }
        }
        at.next_multiple_of(ALIGN) == markers
    }
}

/// The markers that end here, and where they start. There may be four bytes of padding behind them.
fn markers(image: Image, end: usize) -> Option<(usize, Vec<u32>)> {
    let mut at = end.checked_sub(4)?;
    if image.u32(at)? == 0 {
        at = at.checked_sub(4)?;
    }
    let mut marks = vec![image.u32(at)?];
    while *marks.last()? != 0 {
        at = at.checked_sub(4)?;
        let mark = image.u32(at)?;
        if mark >= *marks.last()? {
            return None;
        }
        marks.push(mark);
    }
    marks.reverse();
    Some((at, marks))
}

/// The addresses of all names, by 32-bit offsets and their base.
fn addresses(image: Image, tokens: &Tokens, names: &Names) -> Option<Vec<u64>> {
    let bytes = (4 * names.count).next_multiple_of(ALIGN);
    let behind = tokens.index + (2 * TOKENS).next_multiple_of(ALIGN);
    // From Linux 6.4, and before.
    let newer = Some((behind, behind + bytes));
    let older = names.counted.checked_sub(ALIGN).and_then(|base| Some((base.checked_sub(bytes)?, base)));
    [newer, older].into_iter().flatten().find_map(|(offsets, base)| {
        let base = image.u64(base).filter(|&base| base >= KERNEL_START)?;
        let offsets =
            (0..names.count).map(|number| image.u32(offsets + 4 * number).map(|offset| offset as i32));
        let offsets: Vec<i32> = offsets.collect::<Option<_>>()?;
        let addresses = decoded(base, &offsets);
        addresses.is_sorted().then_some(addresses)
    })
}

/// While there were per-CPU variables at addresses of their own (to Linux 6.14), offsets below zero count down from one below the base, and
/// others are addresses; since then all count up from it.
fn decoded(base: u64, offsets: &[i32]) -> Vec<u64> {
    let absolute = offsets.iter().any(|&offset| offset < 0);
    let address = |&offset: &i32| match (absolute, offset) {
        (true, offset) if offset < 0 => base.wrapping_add((-1 - i64::from(offset)) as u64),
        (true, offset) => offset as u64,
        (false, offset) => base + offset as u64,
    };
    offsets.iter().map(address).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Which order the parts have.
    #[derive(Clone, Copy, PartialEq)]
    pub enum Order {
        /// To Linux 6.1.
        OffsetsFirst,
        /// To Linux 6.3.
        NamesOrdered,
        /// From Linux 6.4.
        OffsetsLast,
    }

    /// A file with a table of these symbols, and other things around it.
    pub fn kernel(order: Order, base: u64, symbols: &[(i32, String)]) -> Vec<u8> {
        // Every character is a token, as in a kernel; those that no text has stand for pairs.
        let spelled: Vec<String> = (0..256_u32)
            .map(|byte| match char::from_u32(byte).filter(char::is_ascii_graphic) {
                Some(own) => own.to_string(),
                None => format!("t{byte}_"),
            })
            .collect();
        let mut file = vec![0xa5; 4099];
        let align = |file: &mut Vec<u8>| file.resize(file.len().next_multiple_of(ALIGN), 0);
        let offsets = |file: &mut Vec<u8>| {
            symbols.iter().for_each(|(offset, _)| file.extend(offset.to_le_bytes()));
            align(file);
            file.extend(base.to_le_bytes());
        };
        align(&mut file);
        if order != Order::OffsetsLast {
            offsets(&mut file);
        }
        file.extend((symbols.len() as u32).to_le_bytes());
        align(&mut file);
        let (start, mut marks) = (file.len(), Vec::new());
        for (number, (_, name)) in symbols.iter().enumerate() {
            if number % MARKED == 0 {
                marks.push((file.len() - start) as u32);
            }
            // The last token stands for more than itself.
            let length = name.len() + 1;
            match length < 0x80 {
                true => file.push(length as u8),
                false => file.extend([length as u8 | 0x80, (length >> 7) as u8]),
            }
            file.extend(name.bytes().chain([200]));
        }
        align(&mut file);
        marks.iter().for_each(|mark| file.extend(mark.to_le_bytes()));
        align(&mut file);
        if order == Order::NamesOrdered {
            (0..symbols.len() as u32).for_each(|number| file.extend(&(number * 7 % 1000).to_be_bytes()[1..]));
            align(&mut file);
        }
        let table = file.len();
        let mut starts = Vec::new();
        for token in &spelled {
            starts.push((file.len() - table) as u16);
            file.extend(token.bytes().chain([0]));
        }
        align(&mut file);
        starts.iter().for_each(|start| file.extend(start.to_le_bytes()));
        if order == Order::OffsetsLast {
            offsets(&mut file);
        }
        file.extend([0x5a; 333]);
        file
    }

    /// So many symbols, the first of them per-CPU, some with long names.
    fn symbols(count: usize) -> Vec<(i32, String)> {
        let long = |number| if number % 100 == 7 { "x".repeat(300) } else { String::new() };
        (0..count)
            .map(|number| match number {
                0..3 => (16 * number as i32, format!("Dcpu{number}")),
                _ => (-1 - 16 * number as i32, format!("Tfn{number}{}", long(number))),
            })
            .collect()
    }

    const BASE: u64 = 0xffff_ffff_8100_0000;

    #[test]
    fn symbols_come_out_as_they_went_in_whatever_their_order_and_number() {
        for order in [Order::OffsetsFirst, Order::NamesOrdered, Order::OffsetsLast] {
            for count in [4, 255, 256, 257, 512, 1000] {
                let symbols = symbols(count);
                let entries = read(&kernel(order, BASE, &symbols)).unwrap();
                assert_eq!(entries.len(), count);
                for (number, (entry, (_, name))) in entries.iter().zip(&symbols).enumerate() {
                    let address = if number < 3 { 0 } else { BASE } + 16 * number as u64;
                    assert_eq!(
                        (entry.address, format!("{}{}", entry.kind, entry.name)),
                        (address, format!("{name}t200_"))
                    );
                }
            }
        }
    }

    #[test]
    fn without_per_cpu_addresses_all_offsets_count_up() {
        let symbols: Vec<(i32, String)> =
            (0..300).map(|number| (8 * number, format!("tf{number}"))).collect();
        let entries = read(&kernel(Order::OffsetsLast, BASE, &symbols)).unwrap();
        assert_eq!(entries[299].address, BASE + 8 * 299);
    }

    #[test]
    fn files_without_a_table_or_with_a_broken_one_are_refused() {
        assert!(read(b"").is_err());
        assert!(read(&[0; 100_000]).is_err());
        let whole = kernel(Order::OffsetsLast, BASE, &symbols(600));
        for cut in [whole.len() / 4, whole.len() / 2, whole.len() - 1000] {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        // A base that is no address of the kernel.
        assert!(read(&kernel(Order::OffsetsLast, 5, &symbols(600))).is_err());
    }
}
