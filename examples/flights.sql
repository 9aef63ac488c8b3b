-- Departures from New York City's three airports in 2013: per hour and carrier, how many flights left, and their mean
-- and largest delay. The input is ordered by schedule, so departures arrive out of order by their delay, up to 21 hours.

SET 'pipeline.name' = 'flights';
SET 'parallelism.default' = '2';
SET 'execution.checkpointing.interval' = '500 ms';

CREATE TABLE flights (
  sched_dep     TIMESTAMP(3),
  dep           TIMESTAMP(3),          -- NULL: the flight was cancelled
  carrier       STRING,
  flight        INT,
  tailnum       STRING,
  origin        STRING,
  dest          STRING,
  dep_delay_min INT,
  arr_delay_min INT,
  distance_mi   INT,
  WATERMARK FOR dep AS dep - INTERVAL '24' HOUR
) WITH (
  'connector' = 'filesystem',
  'path' = 'examples/data/flights-2013.csv.gz',
  'format' = 'csv',
  'csv.skip-header' = 'true'
);

CREATE VIEW departed AS
SELECT dep, carrier, dep_delay_min FROM flights WHERE dep IS NOT NULL;

CREATE TABLE departures (
  `hour`     TIMESTAMP(3),
  carrier    STRING,
  departures BIGINT,
  mean_delay DOUBLE,
  max_delay  INT
) WITH (
  'connector' = 'filesystem',
  'path' = 'holdfast-data/output/departures',
  'format' = 'csv'
);

INSERT INTO departures
SELECT window_start, carrier, COUNT(*), AVG(CAST(dep_delay_min AS DOUBLE)), MAX(dep_delay_min)
FROM TABLE(TUMBLE(TABLE departed, DESCRIPTOR(dep), INTERVAL '1' HOUR))
GROUP BY window_start, window_end, carrier;
