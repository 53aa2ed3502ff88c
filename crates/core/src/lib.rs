//! The vocabulary every other crate speaks: ids, time, money, keys, permissions, prices, budgets, pages and the one
//! error. Nothing here does IO, knows SQL or waits for anything.
//!
//! Words (OpenAI's where they exist): an *organization* holds *projects*; a project holds *API keys*, each owned by a
//! *user* or a *service account*. A *caller* is who a key proves. A *hold* is money reserved for one request before it
//! is sent to an *upstream* (a provider connection); it ends *settled* or *voided*. A *bound* is the most a request can
//! cost. A *budget* is a spend limit over one period. An *attempt* is one dispatch to an upstream: a hold and all that became of it.

pub mod address;
pub mod budget;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod id;
pub mod input;
pub mod key;
pub mod labels;
pub mod metrics;
pub mod money;
pub mod network;
pub mod not_served;
pub mod page;
pub mod patch;
pub mod period;
pub mod permission;
pub mod price;
pub mod price_book;
pub mod role;
mod schema;
pub mod seal;
pub mod secret;
pub mod time;
pub mod upstream;

pub use address::Address;
pub use error::{Error, Kind, Result};
pub use id::{
    AdjustmentId, AttemptId, AuditLogId, EventAlertId, GroupId, InviteId, KeyId, NotificationId,
    OrganizationId, Principal, ProjectId, RoleId, ServiceAccountId, SessionId, SpendAlertId, SpendLimitId,
    UpstreamId, UserId,
};
pub use money::{Money, UnitPrice};
pub use period::{Interval, Period, Zone};
pub use permission::{Permission, Permissions, Scopes};
pub use role::{Predefined, Resource, RoleRef};
pub use time::{Clock, Timestamp};
