//! What is written and read.

use std::collections::HashMap;

/// A map of many small things, as sessions are.
#[derive(Clone, Debug, Default, PartialEq, bincode::Encode, bincode::Decode, flip::Handoff)]
pub struct Sessions {
    pub by_token: HashMap<String, Session>,
}

#[derive(Clone, Debug, Default, PartialEq, bincode::Encode, bincode::Decode, flip::Handoff)]
pub struct Session {
    pub user: String,
    pub since: u64,
    pub balance: i64,
    pub rooms: Vec<u16>,
}

/// What serde's two traits alone can carry.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SerdeSession {
    pub user: String,
    pub since: u64,
    pub balance: i64,
    pub rooms: Vec<u16>,
}

#[derive(Debug, PartialEq, flip::Handoff)]
pub struct SerdeSessions {
    /// Each value a leaf of its own.
    pub by_token: HashMap<String, SerdeSession>,
}

/// The map as one leaf.
#[derive(Debug, PartialEq, flip::Handoff)]
pub struct SerdeMap {
    #[handoff(serde)]
    pub by_token: HashMap<String, SerdeSession>,
}

/// An earlier release's: a field that is gone, one that is narrower, and none that is new.
pub mod old {
    use super::HashMap;

    #[derive(flip::Handoff)]
    pub struct Sessions {
        pub by_token: HashMap<String, Session>,
    }

    #[derive(flip::Handoff)]
    pub struct Session {
        pub user: String,
        pub since: u32,
        pub hits: u32,
        pub balance: i64,
        pub rooms: Vec<u16>,
    }

    #[derive(flip::Handoff)]
    pub struct SerdeSessions {
        pub by_token: HashMap<String, SerdeSession>,
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    pub struct SerdeSession {
        pub user: String,
        pub since: u32,
        pub hits: u32,
        pub balance: i64,
        pub rooms: Vec<u16>,
    }
}

/// The next release's.
pub mod new {
    use super::HashMap;

    #[derive(Debug, PartialEq, flip::Handoff)]
    pub struct Sessions {
        pub by_token: HashMap<String, Session>,
    }

    #[derive(Debug, PartialEq, flip::Handoff)]
    pub struct Session {
        pub user: String,
        pub since: u64,
        pub balance: i64,
        pub rooms: Vec<u16>,
        #[handoff(default)]
        pub muted: bool,
    }

    #[derive(Debug, PartialEq, flip::Handoff)]
    pub struct SerdeSessions {
        pub by_token: HashMap<String, SerdeSession>,
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    pub struct SerdeSession {
        pub user: String,
        pub since: u64,
        pub balance: i64,
        pub rooms: Vec<u16>,
        #[serde(default)]
        pub muted: bool,
    }
}

/// Things within things: enums, options, lists of structs, a tree.
#[derive(Clone, Debug, PartialEq, bincode::Encode, bincode::Decode, flip::Handoff)]
pub struct Node {
    pub name: String,
    pub kind: Kind,
    pub parent: Option<u64>,
    pub points: Vec<(f64, f64)>,
    pub children: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, bincode::Encode, bincode::Decode, flip::Handoff)]
pub enum Kind {
    Leaf,
    Counted(u64, bool),
    Tagged { tag: String, weight: f32 },
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

pub fn sessions(count: usize) -> Sessions {
    let mut random = Random(0x5eed);
    let by_token = (0..count).map(|n| {
        let rooms = (0..random.next() % 7).map(|_| random.next() as u16).collect();
        let since = u64::from(random.next() as u32);
        let session = Session { user: format!("user number {n}"), since, balance: random.next() as i64 >> 40, rooms };
        (format!("{:016x}", random.next()), session)
    });
    Sessions { by_token: by_token.collect() }
}

impl Sessions {
    pub fn to_old(&self) -> old::Sessions {
        let by_token = self.by_token.iter().map(|(token, Session { user, since, balance, rooms })| {
            let since = u32::try_from(*since).expect("it was made to fit");
            let (user, hits, balance, rooms) = (user.clone(), 7, *balance, rooms.clone());
            (token.clone(), old::Session { user, since, hits, balance, rooms })
        });
        old::Sessions { by_token: by_token.collect() }
    }

    pub fn to_new(&self) -> new::Sessions {
        let by_token = self.by_token.iter().map(|(token, session)| {
            let Session { user, since, balance, rooms } = session.clone();
            (token.clone(), new::Session { user, since, balance, rooms, muted: false })
        });
        new::Sessions { by_token: by_token.collect() }
    }

    pub fn to_serde_old(&self) -> old::SerdeSessions {
        let by_token = self.to_old().by_token.into_iter().map(|(token, session)| {
            let old::Session { user, since, hits, balance, rooms } = session;
            (token, old::SerdeSession { user, since, hits, balance, rooms })
        });
        old::SerdeSessions { by_token: by_token.collect() }
    }

    pub fn to_serde_new(&self) -> new::SerdeSessions {
        let by_token = self.to_new().by_token.into_iter().map(|(token, session)| {
            let new::Session { user, since, balance, rooms, muted } = session;
            (token, new::SerdeSession { user, since, balance, rooms, muted })
        });
        new::SerdeSessions { by_token: by_token.collect() }
    }

    pub fn to_serde(&self) -> HashMap<String, SerdeSession> {
        let by_token = self.by_token.iter().map(|(token, session)| {
            let Session { user, since, balance, rooms } = session.clone();
            (token.clone(), SerdeSession { user, since, balance, rooms })
        });
        by_token.collect()
    }
}

pub fn words(count: usize) -> impl Iterator<Item = u64> {
    let mut random = Random(0xbadc0de);
    (0..count).map(move |_| random.next())
}

pub fn text(count: usize) -> String {
    words(count / 16).map(|word| format!("{word:016x}")).collect()
}

pub fn texts(count: usize) -> Vec<String> {
    words(count).map(|word| format!("{word:016x}")[..4 + word as usize % 12].to_owned()).collect()
}

pub fn trees(count: usize) -> Vec<Node> {
    let mut random = Random(0xfeedface);
    (0..count).map(|_| tree(&mut random, 3)).collect()
}

fn tree(random: &mut Random, depth: u32) -> Node {
    let kind = match random.next() % 3 {
        0 => Kind::Leaf,
        1 => Kind::Counted(random.next() >> (random.next() % 64), true),
        _ => Kind::Tagged { tag: format!("{:x}", random.next() as u16), weight: 0.5 },
    };
    Node {
        name: format!("node {}", random.next() as u16),
        kind,
        parent: random.next().is_multiple_of(2).then(|| random.next() >> 40),
        points: vec![(1.5, -2.5); (random.next() % 4) as usize],
        children: (0..if depth > 0 { random.next() % 5 } else { 0 }).map(|_| tree(random, depth - 1)).collect(),
    }
}
