alter table accounts%SUFFIX% add constraint accounts%SUFFIX%_pkey primary key (id);
create unique index accounts%SUFFIX%_iban on accounts%SUFFIX% (iban);
create index accounts%SUFFIX%_branch on accounts%SUFFIX% (branch, currency);
