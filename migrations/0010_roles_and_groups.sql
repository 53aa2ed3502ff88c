-- Roles, groups, and who has which role where.

-- Roles that people make. The predefined ones stand in no table.
CREATE TABLE role (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    -- The organization or the project that it is a role of.
    resource_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    permissions TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT,
    updated_at BIGINT NOT NULL,
    UNIQUE (resource_id, name)
);

CREATE TABLE user_group (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (organization_id, name)
);
CREATE INDEX user_group_by_organization ON user_group (organization_id, id);

CREATE TABLE group_user (
    group_id TEXT NOT NULL REFERENCES user_group (id),
    user_id TEXT NOT NULL REFERENCES app_user (id),
    added_at BIGINT NOT NULL,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX group_user_by_user ON group_user (user_id);

-- Groups whose users are members of a project.
CREATE TABLE project_group (
    project_id TEXT NOT NULL REFERENCES project (id),
    group_id TEXT NOT NULL REFERENCES user_group (id),
    added_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, group_id)
);
CREATE INDEX project_group_by_group ON project_group (group_id);

CREATE TABLE role_assignment (
    -- An organization, or one of its projects.
    resource_id TEXT NOT NULL,
    -- A user or a group.
    principal_id TEXT NOT NULL,
    -- Of a predefined role the short name.
    role_id TEXT NOT NULL,
    organization_id TEXT NOT NULL REFERENCES organization (id),
    created_at BIGINT NOT NULL,
    created_by TEXT,
    PRIMARY KEY (resource_id, principal_id, role_id)
);
CREATE INDEX role_assignment_by_principal ON role_assignment (principal_id, resource_id);
CREATE INDEX role_assignment_by_role ON role_assignment (role_id, resource_id);
-- The keys of one member, for when they lose their access.
CREATE INDEX api_key_by_member ON api_key (organization_id, user_id) WHERE user_id IS NOT NULL;

INSERT INTO role_assignment (resource_id, principal_id, role_id, organization_id, created_at)
    SELECT organization_id, user_id, 'role-api-organization-' || role, organization_id, added_at FROM organization_user;
INSERT INTO role_assignment (resource_id, principal_id, role_id, organization_id, created_at)
    SELECT m.project_id, m.user_id, 'role-api-project-' || m.role, p.organization_id, m.added_at
    FROM project_user m JOIN project p ON p.id = m.project_id;
ALTER TABLE organization_user DROP COLUMN role;
ALTER TABLE project_user DROP COLUMN role;
