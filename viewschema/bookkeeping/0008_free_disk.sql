-- What is to stay free of the disks of the server. A process that finds less stops.
alter table %SCHEMA%.projector_throttles
    add column min_free_disk bigint check (min_free_disk > 0); -- bytes, of each volume that the server writes to
