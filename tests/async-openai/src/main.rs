//! Calls a sample of the administration through async-openai and panics where something is not as it should be.
//!
//! `tollgate-async-openai BASE_URL ADMIN_KEY OWNER_ID`

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::admin::groups::{CreateGroupBody, CreateGroupUserBody};
use async_openai::types::admin::invites::InviteRequest;
use async_openai::types::admin::projects::ProjectCreateRequest;
use async_openai::types::admin::roles::{OrganizationRole, PublicCreateOrganizationRoleBody};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base_url, admin_key, owner] = arguments.as_slice() else { panic!("BASE_URL ADMIN_KEY OWNER_ID") };
    let client = Client::with_config(OpenAIConfig::new().with_api_base(base_url).with_api_key(admin_key));
    let admin = client.admin();

    let wish = ProjectCreateRequest { name: "From Rust".to_owned(), ..ProjectCreateRequest::default() };
    let project = admin.projects().create(wish).await.expect("a project is made");
    assert_eq!(project.name.as_deref(), Some("From Rust"));
    // Its lists of projects and of their members want `has_more` to be a text, which it is at nobody's.
    assert_eq!(
        admin.projects().retrieve(project.id.clone()).await.expect("a project is read").id,
        project.id
    );
    assert!(admin.projects().api_keys(&project.id).list().await.expect("keys are listed").data.is_empty());
    assert!(
        admin
            .projects()
            .service_accounts(&project.id)
            .list()
            .await
            .expect("accounts are listed")
            .data
            .is_empty()
    );

    let users = admin.users().list().await.expect("users are listed");
    assert!(users.data.iter().any(|user| user.id == *owner));
    admin.users().retrieve(owner).await.expect("a user is read");

    let group =
        admin.groups().create(CreateGroupBody { name: "Rust".to_owned() }).await.expect("a group is made");
    let member = CreateGroupUserBody { user_id: owner.clone() };
    admin.groups().users(&group.id).add(member).await.expect("a user is added");
    assert_eq!(admin.groups().users(&group.id).list().await.expect("its users are listed").data.len(), 1);
    admin.groups().users(&group.id).remove(owner).await.expect("a user is removed");

    let wish = PublicCreateOrganizationRoleBody {
        role_name: "From Rust".to_owned(),
        permissions: vec!["api.organization.projects.read".to_owned()],
        description: None,
    };
    let role = admin.roles().create(wish).await.expect("a role is made");
    assert!(admin.roles().list().await.expect("roles are listed").data.iter().any(|one| one.id == role.id));
    admin.roles().delete(&role.id).await.expect("a role is deleted");
    admin.groups().delete(&group.id).await.expect("a group is deleted");

    let wish = InviteRequest {
        email: "rust@example.com".to_owned(),
        role: OrganizationRole::Reader,
        projects: None,
    };
    let invite = admin.invites().create(wish).await.expect("an invite is sent");
    admin.invites().delete(&invite.id).await.expect("an invite is deleted");
    let log = admin.audit_logs().get().await.expect("the audit log is read");
    assert!(!log.data.is_empty());
    admin.projects().archive(project.id.clone()).await.expect("a project is archived");
    println!("{} events", log.data.len());
}
