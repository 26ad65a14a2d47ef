alter table transfers%SUFFIX% add constraint transfers%SUFFIX%_pkey primary key (id);
create index transfers%SUFFIX%_on_their_way on transfers%SUFFIX% (to_iban) where received_at is null;
