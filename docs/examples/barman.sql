-- The roles of Barman, for PostgreSQL 15 and newer. Run it on the leader, and then give both a password; the Barman host has them
-- in the .pgpass of its user. What is granted: Barman's documentation, "PostgreSQL connection".
CREATE ROLE barman LOGIN;
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO barman;
GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO barman;
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO barman;
GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO barman;
GRANT pg_read_all_settings, pg_read_all_stats, pg_checkpoint TO barman;
CREATE ROLE streaming_barman LOGIN REPLICATION;
