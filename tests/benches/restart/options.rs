//! What the command line asks for.

use std::path::PathBuf;

use crate::contender::{CONTENDERS, Contender, FLOOR, OTHER};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    Idle,
    Load,
    Streams,
    Memory,
    State,
    Connections,
}

impl Scenario {
    pub const ALL: [Scenario; 6] =
        [Scenario::Idle, Scenario::Load, Scenario::Streams, Scenario::Memory, Scenario::State, Scenario::Connections];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Idle => "idle",
            Scenario::Load => "load",
            Scenario::Streams => "streams",
            Scenario::Memory => "memory",
            Scenario::State => "state",
            Scenario::Connections => "connections",
        }
    }
}

pub struct Options {
    pub scenarios: Vec<Scenario>,
    pub json: bool,
    /// In bytes.
    pub memory: u64,
    /// In bytes.
    pub state: u64,
    pub other: Option<PathBuf>,
    only: Vec<String>,
    restarts: usize,
    few_restarts: usize,
    many_restarts: usize,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            scenarios: Scenario::ALL.to_vec(),
            json: false,
            memory: 4 << 30,
            state: 1 << 30,
            other: None,
            only: Vec::new(),
            restarts: 200,
            few_restarts: 20,
            many_restarts: 1000,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
            match argument.as_str() {
                // What `cargo bench` says to every benchmark.
                "--bench" => {}
                "--restarts" => options.restarts = number(&value()?)?,
                "--few-restarts" => options.few_restarts = number(&value()?)?,
                "--many-restarts" => options.many_restarts = number(&value()?)?,
                "--memory-gb" => options.memory = (number(&value()?)? as u64) << 30,
                "--state-mb" => options.state = (number(&value()?)? as u64) << 20,
                "--other" => options.other = Some(value()?.into()),
                "--scenario" => {
                    options.scenarios = value()?.split(',').map(scenario).collect::<Result<_, _>>()?;
                }
                "--only" => {
                    options.only = value()?.split(',').map(contender).collect::<Result<_, _>>()?;
                }
                "--quick" => (options.restarts, options.few_restarts, options.many_restarts) = (5, 1, 5),
                "--json" => options.json = true,
                _ => return Err(format!("{argument} is no option; they are at the top of benches/restart/main.rs")),
            }
        }
        Ok(options)
    }

    /// Whether a contender has a turn in any of the scenarios.
    pub fn wants(&self, contender: &Contender) -> bool {
        let named = self.only.is_empty() || self.only.iter().any(|name| name == contender.name);
        let is_there = contender.name != OTHER || self.other.is_some();
        is_there
            && (named || contender.name == FLOOR)
            && self.scenarios.iter().any(|&scenario| contender.takes_part(scenario))
    }

    pub fn rounds(&self, scenario: Scenario) -> usize {
        match scenario {
            Scenario::Idle | Scenario::Load => self.restarts,
            Scenario::Streams | Scenario::Memory | Scenario::State => self.few_restarts,
            Scenario::Connections => self.many_restarts,
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
    found.ok_or_else(|| format!("{name} is no scenario"))
}

fn contender(name: &str) -> Result<String, String> {
    let found = CONTENDERS.iter().any(|contender| contender.name == name);
    if found { Ok(name.to_owned()) } else { Err(format!("{name} is no contender")) }
}
