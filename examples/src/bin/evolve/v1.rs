//! Release 1 of a desk that takes orders. Release 2 has another idea of nearly everything in its state; compare the two files.
//!
//! It can be gone back to from release 2. That needs nothing where a change works both ways by itself; where it does not, release 1
//! has to say so, as each comment with "the way back" tells. A real release 1 does not know what release 2 will be: one that is to
//! be gone back to says it in a later release 1.1, before release 2 comes. `flip::testing::snapshot_both_ways` tells what it has to
//! say.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use flip::{HandedOff, Handoff, Live, TcpListener};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(clap::Parser)]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: std::net::SocketAddr,
}

#[derive(Handoff)]
struct Desk {
    name: String,
    /// The same moment in each process.
    opened: Instant,
    orders: BTreeMap<Number, Order>,
    taken: u32,
    /// All prices are in quarters, which an `f32` holds as well as an `f64`. The way back would be rolled back for a tenth.
    revenue: f32,
    towns: Vec<String>,
    note: String,
    /// In milliseconds. The way back is a migration, too.
    #[handoff(from = "Duration", migrate = |patience: Duration| patience.as_millis() as u64)]
    patience: u64,
    theme: Theme,
    /// Gone in release 2, so on the way back there is none, and another is begun.
    #[handoff(default = journal())]
    journal: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Handoff)]
struct Number(u64);

#[derive(Handoff)]
struct Order {
    item: Box<Item>,
    town: String,
    status: Status,
}

#[derive(Handoff)]
struct Item {
    name: String,
    /// In francs. The way back is a migration here, too.
    #[handoff(from = "Price", migrate = |price: Price| price.rappen as f32 / 100.0)]
    price: f32,
}

/// What a price is in release 2.
#[derive(Handoff)]
struct Price {
    rappen: u32,
}

#[derive(Clone, Copy, Debug, Handoff)]
enum Status {
    New,
    /// Planned, and never used: so release 2 can do without it.
    Held,
    Paid,
    Sent {
        days: u8,
    },
}

/// Goes through serde, so serde's attributes say what may change. They are not known to the other release: the way back needs an
/// alias of its own.
#[derive(Clone, Serialize, Deserialize)]
struct Theme {
    #[serde(alias = "colour")]
    color: String,
}

/// Gone in release 2, as a whole: on the way back it begins anew.
#[derive(Default, Handoff)]
struct Coupons {
    used: u64,
}

const MENU: [(&str, f32, &str); 3] = [("tea", 2.25, "Bern"), ("cake", 3.5, "Genf"), ("soup", 4.75, "Chur")];

fn journal() -> File {
    tempfile::tempfile().expect("a temporary file can be made")
}

impl Desk {
    fn open() -> Desk {
        Desk {
            name: "the desk".to_owned(),
            opened: Instant::now(),
            orders: BTreeMap::new(),
            taken: 0,
            revenue: 0.0,
            towns: vec![],
            note: "mind the step".to_owned(),
            patience: 1500,
            theme: Theme { color: "green".to_owned() },
            journal: journal(),
        }
    }

    /// Takes the next order; the one before is paid, and the one before that sent.
    fn take(&mut self) -> u32 {
        self.taken += 1;
        let (name, price, town) = MENU[self.taken as usize % MENU.len()];
        let earlier = self.orders.values_mut().rev();
        earlier.zip([Status::Paid, Status::Sent { days: 2 }]).for_each(|(order, status)| order.status = status);
        let item = Box::new(Item { name: name.to_owned(), price });
        self.orders.insert(Number(self.taken.into()), Order { item, town: town.to_owned(), status: Status::New });
        self.revenue += price;
        if !self.towns.iter().any(|known| known == town) {
            self.towns.push(town.to_owned());
        }
        // A disk that is full is no reason to take no order.
        let _ = writeln!(self.journal, "order {}", self.taken);
        self.taken
    }

    fn show(&self) -> Value {
        let order = |(number, order): (&Number, &Order)| {
            let status = format!("{:?}", order.status);
            json!([number.0, order.item.name, order.item.price, order.town, status])
        };
        json!({
            "release": 1,
            "pid": std::process::id(),
            "name": self.name,
            "open_ms": self.opened.elapsed().as_millis() as u64,
            "taken": self.taken,
            "revenue": self.revenue,
            "towns": self.towns,
            "note": self.note,
            "patience_ms": self.patience,
            "color": self.theme.color,
            "journal": self.journal.metadata().is_ok_and(|journal| journal.len() > 0),
            "last": self.orders.iter().rev().take(3).map(order).collect::<Vec<_>>(),
        })
    }
}

#[derive(Clone, flip::Params)]
struct App {
    #[live(init = Desk::open())]
    desk: Live<Desk>,
    coupons: Live<Coupons>,
}

async fn order(State(app): State<App>) -> Result<String, HandedOff> {
    app.desk.update(|desk| format!("order {}\n", desk.take()))
}

async fn coupon(State(app): State<App>) -> Result<String, HandedOff> {
    app.coupons.update(|coupons| coupons.used += 1)?;
    order(State(app)).await
}

async fn show(State(app): State<App>) -> Result<Json<Value>, HandedOff> {
    let mut shown = app.desk.read(Desk::show)?;
    shown["coupons"] = app.coupons.read(|coupons| coupons.used)?.into();
    Ok(Json(shown))
}

#[flip::main]
async fn main(#[args] args: Cli, #[listen(args.listen)] http: TcpListener, app: App) -> std::io::Result<()> {
    flip_examples::log();
    let router = Router::new()
        .route("/order", post(order))
        .route("/order/coupon", post(coupon))
        .route("/desk", get(show))
        .with_state(app);
    flip::serve(http, router).await
}
