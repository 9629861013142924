//! Release 2 of the desk: the same service, and a state that differs from release 1's in every way in which one may.

use std::collections::{BTreeMap, BTreeSet};
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

/// The fields stand in another order, and `journal` is gone: the file is closed.
#[derive(Handoff)]
struct Desk {
    opened: Instant,
    /// Was `name`; release 1 learns from here that it is the same.
    #[handoff(alias = "name")]
    title: String,
    /// Was of milliseconds.
    #[handoff(from = "u64", migrate = Duration::from_millis)]
    patience: Duration,
    /// The numbers were a type of their own.
    orders: BTreeMap<u64, Order>,
    /// Was a `u32`. The way back is rolled back where it no longer fits.
    taken: u64,
    /// Was an `f32`.
    revenue: f64,
    /// Was a list.
    towns: BTreeSet<String>,
    /// Was there always. The way back is rolled back where it is not.
    note: Option<String>,
    theme: Theme,
    /// New. On the way back it is lost.
    #[handoff(default = 3)]
    seats: u8,
}

#[derive(Handoff)]
struct Order {
    status: Status,
    /// Is called so in the program alone: whatever it is handed over as needs no change.
    #[handoff(rename = "town")]
    city: String,
    /// Was in a `Box`.
    item: Dish,
}

/// Was called `Item`, which nobody needs to know.
#[derive(Handoff)]
struct Dish {
    name: String,
    price: Price,
}

/// Was an `f32` wherever there was one.
#[derive(Clone, Copy, Handoff)]
#[handoff(from = "f32", migrate = Price::of)]
struct Price {
    rappen: u32,
}

impl Price {
    fn of(francs: f32) -> Price {
        Price { rappen: (francs * 100.0).round() as u32 }
    }

    fn francs(self) -> f64 {
        f64::from(self.rappen) / 100.0
    }
}

/// In another order, and without `Held`, which was never used.
#[derive(Clone, Copy, Debug, Handoff)]
enum Status {
    /// Has one field more, and one that was a `u8`.
    Sent {
        #[handoff(default)]
        parcels: Option<u16>,
        days: u32,
    },
    Paid,
    #[handoff(alias = "New")]
    Open,
    /// New. The way back is rolled back while an order is of it.
    Refunded,
}

/// Release 1 has no `size`, and another name for `colour`.
#[derive(Clone, Serialize, Deserialize)]
struct Theme {
    #[serde(alias = "color")]
    colour: String,
    #[serde(default = "medium")]
    size: u32,
}

fn medium() -> u32 {
    12
}

/// New as a whole.
#[derive(Default, Handoff)]
struct Refunds {
    paid: f64,
}

const MENU: [(&str, f32, &str); 3] = [("tea", 2.25, "Bern"), ("cake", 3.5, "Genf"), ("soup", 4.75, "Chur")];

impl Desk {
    fn open() -> Desk {
        Desk {
            opened: Instant::now(),
            title: "the desk".to_owned(),
            patience: Duration::from_millis(1500),
            orders: BTreeMap::new(),
            taken: 0,
            revenue: 0.0,
            towns: BTreeSet::new(),
            note: Some("mind the step".to_owned()),
            theme: Theme { colour: "green".to_owned(), size: medium() },
            seats: 3,
        }
    }

    /// Takes the next order; the one before is paid, and the one before that sent.
    fn take(&mut self) -> u64 {
        self.taken += 1;
        let (name, price, town) = MENU[self.taken as usize % MENU.len()];
        let earlier = self.orders.values_mut().rev();
        earlier
            .zip([Status::Paid, Status::Sent { parcels: Some(1), days: 2 }])
            .for_each(|(order, status)| order.status = status);
        let price = Price::of(price);
        let item = Dish { name: name.to_owned(), price };
        self.orders.insert(self.taken, Order { status: Status::Open, city: town.to_owned(), item });
        self.revenue += price.francs();
        self.towns.insert(town.to_owned());
        self.taken
    }

    /// Gives the money of the last order back.
    fn refund(&mut self) -> f64 {
        let Some(order) = self.orders.values_mut().next_back() else { return 0.0 };
        order.status = Status::Refunded;
        let price = order.item.price.francs();
        self.revenue -= price;
        price
    }

    fn show(&self) -> Value {
        let order = |(number, order): (&u64, &Order)| {
            let status = format!("{:?}", order.status);
            json!([number, order.item.name, order.item.price.francs(), order.city, status])
        };
        json!({
            "release": 2,
            "pid": std::process::id(),
            "title": self.title,
            "open_ms": self.opened.elapsed().as_millis() as u64,
            "taken": self.taken,
            "revenue": self.revenue,
            "towns": self.towns,
            "note": self.note,
            "patience_ms": self.patience.as_millis() as u64,
            "colour": self.theme.colour,
            "size": self.theme.size,
            "seats": self.seats,
            "last": self.orders.iter().rev().take(3).map(order).collect::<Vec<_>>(),
        })
    }
}

#[derive(Clone, flip::Params)]
struct App {
    #[live(init = Desk::open())]
    desk: Live<Desk>,
    refunds: Live<Refunds>,
}

async fn order(State(app): State<App>) -> Result<String, HandedOff> {
    app.desk.update(|desk| format!("order {}\n", desk.take()))
}

async fn refund(State(app): State<App>) -> Result<String, HandedOff> {
    let price = app.desk.update(Desk::refund)?;
    app.refunds.update(|refunds| refunds.paid += price)?;
    Ok(format!("refunded {price}\n"))
}

async fn show(State(app): State<App>) -> Result<Json<Value>, HandedOff> {
    let mut shown = app.desk.read(Desk::show)?;
    shown["refunds"] = app.refunds.read(|refunds| refunds.paid)?.into();
    Ok(Json(shown))
}

#[flip::main]
async fn main(#[args] args: Cli, #[listen(args.listen)] http: TcpListener, app: App) -> std::io::Result<()> {
    flip_examples::log();
    let router = Router::new()
        .route("/order", post(order))
        .route("/refund", post(refund))
        .route("/desk", get(show))
        .with_state(app);
    flip::serve(http, router).await
}

#[cfg(test)]
mod tests {
    /// The file was written by the same line in release 1.
    #[test]
    fn desk_can_be_handed_over_and_back() {
        flip::testing::snapshot_both_ways::<super::Desk>("src/bin/evolve/v1.flip");
    }
}
