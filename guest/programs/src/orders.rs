//! Orders: `name:key=value:key=value`, and what the kernel's command line says about them.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::trouble::Trouble;

/// One program to run, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The program's name.
    pub program: String,
    parameters: BTreeMap<String, String>,
}

impl FromStr for Order {
    type Err = Trouble;

    fn from_str(text: &str) -> Result<Self, Trouble> {
        let mut parts = text.split(':');
        let program = parts.next().unwrap_or_default().to_owned();
        if program.is_empty() {
            return Err(Trouble::order(text, "names no program"));
        }
        let mut parameters = BTreeMap::new();
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                return Err(Trouble::order(text, format!("{part:?} is not key=value")));
            };
            parameters.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self { program, parameters })
    }
}

impl Order {
    /// The whole number under `key`, or `default`.
    ///
    /// # Errors
    /// Where the value is no number of at least `at_least`.
    pub fn number(&self, key: &str, default: u64, at_least: u64) -> Result<u64, Trouble> {
        let Some(value) = self.parameters.get(key) else { return Ok(default) };
        value.parse().ok().filter(|&number| number >= at_least).ok_or_else(|| {
            Trouble::order(format!("{key}={value}"), format!("is no number from {at_least} on"))
        })
    }

    /// The number under `key`, which may have decimals, or `default`.
    ///
    /// # Errors
    /// Where the value is no positive number.
    pub fn seconds(&self, key: &str, default: f64) -> Result<f64, Trouble> {
        let Some(value) = self.parameters.get(key) else { return Ok(default) };
        value
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite() && *number > 0.0)
            .ok_or_else(|| Trouble::order(format!("{key}={value}"), "is no positive number"))
    }

    /// The text under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.parameters.get(key).map(String::as_str)
    }

    /// Refuses parameters that the program does not know: a misspelt one would silently do something else.
    ///
    /// # Errors
    /// Where there is one.
    pub fn only(&self, known: &[&str]) -> Result<(), Trouble> {
        match self.parameters.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => {
                Err(Trouble::order(key, format!("{} knows only {}", self.program, known.join(", "))))
            }
            None => Ok(()),
        }
    }
}

/// What to do when all programs have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Switch off.
    PowerOff,
    /// Restart.
    Reboot,
    /// Crash the kernel on purpose.
    Panic,
    /// Talk on the console.
    Shell,
    /// Sleep for ever.
    Stay,
}

/// All that the command line orders.
#[derive(Debug)]
pub struct Orders {
    /// The programs, in order; an order that cannot be read is kept as its trouble.
    pub programs: Vec<Result<Order, Trouble>>,
    /// What to do in the end.
    pub end: End,
}

impl Orders {
    /// Reads `tessera.run=` and `tessera.end=` from a kernel command line. Several `tessera.run=` add up. An
    /// end that is unknown counts as power-off, so that no guest runs on for a typing error.
    pub fn from_cmdline(cmdline: &str) -> Self {
        let mut orders = Self { programs: Vec::new(), end: End::PowerOff };
        for word in cmdline.split_ascii_whitespace() {
            if let Some(list) = word.strip_prefix("tessera.run=") {
                orders.programs.extend(list.split(',').filter(|order| !order.is_empty()).map(str::parse));
            } else if let Some(end) = word.strip_prefix("tessera.end=") {
                orders.end = match end {
                    "reboot" => End::Reboot,
                    "panic" => End::Panic,
                    "shell" => End::Shell,
                    "stay" => End::Stay,
                    _ => End::PowerOff,
                };
            }
        }
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_becomes_orders() {
        let orders =
            Orders::from_cmdline("quiet tessera.run=mgs:m=10:n=5,clocks tessera.end=shell tessera.run=x:y\n");
        assert_eq!(orders.end, End::Shell);
        let names: Vec<_> = orders
            .programs
            .iter()
            .map(|order| order.as_ref().map(|order| order.program.as_str()).ok())
            .collect();
        assert_eq!(names, [Some("mgs"), Some("clocks"), None]);
        let mgs = orders.programs[0].as_ref().unwrap();
        assert_eq!(mgs.number("m", 1, 1).unwrap(), 10);
        assert_eq!(mgs.number("seed", 7, 0).unwrap(), 7);
        assert!(mgs.only(&["m", "n"]).is_ok());
        assert!(mgs.only(&["m"]).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        let order: Order = "mgs:m=0:s=x".parse().unwrap();
        assert!(order.number("m", 1, 1).is_err());
        assert!(order.number("s", 1, 1).is_err());
        assert!(order.seconds("s", 1.0).is_err());
        assert!("".parse::<Order>().is_err());
        assert!(":m=1".parse::<Order>().is_err());
    }

    #[test]
    fn an_unknown_end_switches_off() {
        assert_eq!(Orders::from_cmdline("tessera.end=sehll").end, End::PowerOff);
        assert_eq!(Orders::from_cmdline("").end, End::PowerOff);
    }
}
